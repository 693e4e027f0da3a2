"""Observes cold boots: image in the host's page cache, new overlay, no request to the guest before its shell."""

from __future__ import annotations

import bisect
import contextlib
import time
from collections.abc import Callable, Iterator

from lifsea_testbed.boottime.marks import END, BootMark, from_console, from_record
from lifsea_testbed.boottime.observation import Alignment, BootNumber, Exchange, Observation, Progress, align, by_name
from lifsea_testbed.disk.image import Image
from lifsea_testbed.errors import NotJudged, WaitTimedOut
from lifsea_testbed.guest.boot import UnitTimes
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import AccessMethod
from lifsea_testbed.qemu import instruction_counter as counters
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.instruction_counter import Counter, CounterRecord, Stamp
from lifsea_testbed.support.private_dir import PrivateDirectory

_PIECE = 1 << 20
#: How many points of the curve are stored.
_POINTS = 300
#: Quiet is a second in which less than this share of the boot's own rate is executed.
_QUIET, _SECOND = 0.05, 1.0
#: How many exchanges one alignment uses.
_EXCHANGES = 12
#: How long to wait for quiet, after the boot has finished (seconds on real hardware).
_QUIET_WITHIN = 6.0
#: The units of Cloud Assistant and of containerd.
_UNITS = {BootMark.ASSISTANT: ("aliyun.service",), BootMark.CONTAINERD: ("containerd.service",)}


@contextlib.contextmanager
def counting(factory: MachineFactory) -> Iterator[Counter | None]:
    """The instruction counter, built and ready; nothing under KVM, where the clock judges the boot.

    Raises:
        NotJudged: the counter cannot be built, or this QEMU cannot load it.
    """
    if factory.accelerator.kind is not AcceleratorKind.TCG:
        yield None
        return
    counters.require(factory.emulator.version)
    with PrivateDirectory() as directory, counters.built(directory.path) as counter:
        yield counter


def boots(factory: MachineFactory, name: str, counter: Counter | None, *, until: BootMark = BootMark.FINISHED,
          which: tuple[BootNumber, ...] = (BootNumber.FIRST,)) -> list[Observation]:
    """Boots the image on a new disk, then again for later boots, and returns the observation of each.

    Raises:
        Explained: the image did not boot.
    """
    read_into_cache(factory.image)
    with factory.create(MachineSpec(name=name, counter=counter)) as machine:
        found = [_observe(factory, machine, BootNumber.FIRST, until)]
        if BootNumber.LATER in which:
            machine.reboot()
            found.append(_observe(factory, machine, BootNumber.LATER, until))
    return [seen for seen in found if seen.which in which]


def read_into_cache(image: Image) -> None:
    """Reads the image's file once, so that every boot finds the host's page cache in the same state."""
    with image.path.open("rb", buffering=0) as file:
        while file.read(_PIECE):
            pass


def _observe(factory: MachineFactory, machine: Machine, which: BootNumber, until: BootMark) -> Observation:
    """Observes a boot whose shell is open; nothing is requested of the guest before."""
    marks = {BootMark.POWER_ON: 0.0, END: machine.shell_after}
    if machine.access_method != AccessMethod.NONE:
        _wait_until_finished(factory, machine)
        marks |= _late_marks(factory, machine, until)
    record = machine.boot.counts.record() if machine.boot.counts else CounterRecord()
    lines = machine.boot.transcript.since()
    exact = from_record(stamp for stamp in record.marks if stamp.at >= machine.boot.power_on)
    marks |= from_console(lines) | {mark: stamp.at - machine.boot.power_on for mark, stamp in exact.items()}
    aligned, units = _clock_and_units(machine) if machine.access_method != AccessMethod.NONE else (None, [])
    if aligned:  # marks of the console and the counter are more exact
        marks = _of_guest(machine, aligned, units) | marks
    progress = {mark: _at(record, machine.boot.power_on, at, exact.get(mark)) for mark, at in marks.items()} \
        if record.samples else {}  # fmt: skip
    return Observation(
        image=factory.image.path.name, which=which, error=aligned.error if aligned else 0.0,
        marks=dict(sorted(marks.items(), key=lambda item: item[1])), progress=progress,
        curve=_curve(record, machine.boot.power_on), units=units, programs=by_name(record.programs),
    )  # fmt: skip


def _wait_until_finished(factory: MachineFactory, machine: Machine) -> None:
    """Waits in one command: repeated requests would be counted as instructions of the boot.

    A boot that does not finish in time lacks that mark.
    """
    with contextlib.suppress(WaitTimedOut):
        machine.run("systemctl is-system-running --wait", check=False, within=factory.profile.boot.ready_within)


def _late_marks(factory: MachineFactory, machine: Machine, until: BootMark) -> dict[BootMark, float]:
    """The marks after the boot has finished, up to `until`; those that are not reached in time are left out."""
    marks = dict[BootMark, float]()
    if until in (BootMark.QUIET, BootMark.KUBELET) and machine.boot.counts is not None:
        deadline = factory.time_scale.deadline(_QUIET_WITHIN)
        while (quiet := _quiet(machine)) is None and not deadline.expired:
            machine.boot.liveness.pause(_SECOND / 2, deadline)
        marks |= {BootMark.QUIET: quiet} if quiet is not None else {}
    if until is BootMark.KUBELET and "kubelet-ready" in factory.profile.claims:
        with contextlib.suppress(WaitTimedOut):
            machine.wait_until(machine.guest.kubelet.health, "the kubelet is healthy",
                               within=factory.profile.boot.ready_within)  # fmt: skip
            marks[BootMark.KUBELET] = time.monotonic() - machine.boot.power_on
    return marks


def _quiet(machine: Machine) -> float | None:
    """The start of the last second (seconds after power-on), if little was executed in it."""
    assert machine.boot.counts is not None
    record, start = machine.boot.counts.record(), machine.boot.power_on
    last = record.samples[-1]
    before = _sample(record, last.at - _SECOND)
    rate = last.counts.work / (last.at - start)
    return before.at - start if last.counts.work - before.counts.work < _QUIET * rate * _SECOND else None


def _clock_and_units(machine: Machine) -> tuple[Alignment | None, list[UnitTimes]]:
    """The alignment of the guest's clock, and the units by the host's clock; nothing if the guest cannot tell."""
    try:
        exchanges = [_exchange(machine.guest.boot_times.monotonic) for _ in range(_EXCHANGES)]
    except NotJudged:
        return None, []
    aligned, start = align(exchanges), machine.boot.power_on
    units = [UnitTimes(name=unit.name, processor=unit.processor, started=aligned.host(unit.started) - start,
                       active=aligned.host(unit.active) - start)
             for unit in machine.guest.boot_times.units()]  # fmt: skip
    return aligned, units


def _exchange(read: Callable[[], float]) -> Exchange:
    """Reads the guest's clock between two readings of the host's."""
    before = time.monotonic()
    guest = read()
    return Exchange(before=before, guest=guest, after=time.monotonic())


def _of_guest(machine: Machine, aligned: Alignment, units: list[UnitTimes]) -> dict[BootMark, float]:
    """The marks from the timestamps of systemd."""
    manager, start = machine.guest.boot_times.manager(), machine.boot.power_on
    named = {BootMark.SYSTEMD: "userspace", BootMark.FINISHED: "finished"}
    marks = {mark: aligned.host(manager[name]) - start for mark, name in named.items() if name in manager}
    names = {**_UNITS, BootMark.TARGET: (machine.guest.boot_times.default_target(),)}
    return marks | {mark: unit.active for mark, wanted in names.items() for unit in units if unit.name in wanted}


def _at(record: CounterRecord, start: float, at: float, exact: Stamp | None) -> Progress:
    """The progress at a time: exact where the counter stamped that instruction, else from the nearest sample."""
    first = _sample(record, start)
    stamp = exact or _sample(record, start + at)
    return Progress(at=at, counts=stamp.counts.since(first.counts), idle=stamp.idle - first.idle)


def _sample(record: CounterRecord, at: float) -> Stamp:
    place = bisect.bisect_left(record.samples, at, key=lambda sample: sample.at)
    return record.samples[min(place, len(record.samples) - 1)]


def _curve(record: CounterRecord, start: float) -> list[Progress]:
    samples = [sample for sample in record.samples if sample.at >= start]
    return [_at(record, start, sample.at - start, sample) for sample in samples[:: max(1, len(samples) // _POINTS)]]
