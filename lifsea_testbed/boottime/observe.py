"""Cold boots, observed: the image in the host's page cache, a fresh overlay, nothing asked before the shell opens."""

from __future__ import annotations

import bisect
import contextlib
import time
from collections.abc import Iterator

from lifsea_testbed.boottime import alignment
from lifsea_testbed.boottime.alignment import Alignment
from lifsea_testbed.boottime.marks import END, Mark, in_record, on_console
from lifsea_testbed.boottime.observation import Observation, Progress, Which, by_name
from lifsea_testbed.disk.image import Image
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest.boot import UnitTimes
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Road
from lifsea_testbed.qemu import instruction_counter as counters
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.instruction_counter import Counter, CounterRecord, Stamp
from lifsea_testbed.support.private_dir import PrivateDirectory

_PIECE = 1 << 20
#: Points of the curve that is kept.
_POINTS = 300
#: Quiet is a second in which less than this share of the boot's own rate is executed.
_QUIET, _SECOND = 0.05, 1.0
#: How long quiet, or the kubelet, is waited for (seconds on real hardware).
_PATIENCE = 6.0
#: Names of Cloud Assistant's unit, and of containerd's.
_UNITS = {Mark.ASSISTANT: ("aliyun.service",), Mark.CONTAINERD: ("containerd.service",)}


@contextlib.contextmanager
def counting(factory: MachineFactory) -> Iterator[Counter | None]:
    """What counts instructions; nothing under KVM, where the processor's own time is what matters.

    Raises:
        NotJudged: the counter cannot be built, or this QEMU cannot load it.
    """
    if factory.accelerator.kind is not AcceleratorKind.TCG:
        yield None
        return
    counters.require(factory.emulator.version)
    with PrivateDirectory() as directory, counters.built(directory.path) as counter:
        yield counter


def boots(factory: MachineFactory, name: str, counter: Counter | None, *, until: Mark = Mark.FINISHED,
          which: tuple[Which, ...] = (Which.FIRST,)) -> list[Observation]:
    """Boots the factory's image on a new disk, then again for later boots, and returns what was seen of each.

    Raises:
        Explained: the image did not come up.
    """
    read_into_cache(factory.image)
    with factory.create(MachineSpec(name=name, counter=counter)) as machine:
        found = [_observe(factory, machine, Which.FIRST, until)]
        if Which.LATER in which:
            machine.reboot()
            found.append(_observe(factory, machine, Which.LATER, until))
    return [seen for seen in found if seen.which in which]


def read_into_cache(image: Image) -> None:
    """Reads the image's file once, so that every boot finds the host's page cache alike."""
    with image.path.open("rb", buffering=0) as file:
        while file.read(_PIECE):
            pass


def _observe(factory: MachineFactory, machine: Machine, which: Which, until: Mark) -> Observation:
    """Looks at a boot that has come to its shell, disturbing it only then."""
    marks = {Mark.POWER_ON: 0.0, END: machine.shell_after}
    if machine.access_method is not Road.NONE:
        _wait_until_finished(factory, machine)
        marks |= _later(factory, machine, until)
    record = machine.boot.counts.record() if machine.boot.counts else CounterRecord()
    lines = machine.boot.transcript.since()
    exact = in_record(stamp for stamp in record.marks if stamp.at >= machine.boot.power_on)
    marks |= on_console(lines) | {mark: stamp.at - machine.boot.power_on for mark, stamp in exact.items()}
    aligned, units = _ask(machine) if machine.access_method is not Road.NONE else (None, [])
    if aligned:  # what the console tells is nearer
        marks = _of_guest(machine, aligned, units) | marks
    progress = {mark: _at(record, machine.boot.power_on, at, exact.get(mark)) for mark, at in marks.items()} \
        if record.samples else {}  # fmt: skip
    return Observation(
        image=factory.image.path.name, which=which, error=aligned.error if aligned else 0.0,
        marks=dict(sorted(marks.items(), key=lambda item: item[1])), progress=progress,
        curve=_curve(record, machine.boot.power_on), units=units, programs=by_name(record.programs),
    )  # fmt: skip


def _wait_until_finished(factory: MachineFactory, machine: Machine) -> None:
    """Waits without asking again and again, which the guest would have to execute as well."""
    machine.run("systemctl is-system-running --wait", check=False, within=factory.profile.boot.ready_within)


def _later(factory: MachineFactory, machine: Machine, until: Mark) -> dict[Mark, float]:
    """The marks that come after the boot is finished, as far as they are waited for."""
    marks = dict[Mark, float]()
    if until in (Mark.QUIET, Mark.KUBELET) and machine.boot.counts is not None:
        deadline = factory.time_scale.deadline(_PATIENCE)
        while (quiet := _quiet(machine)) is None and not deadline.expired:
            machine.boot.liveness.pause(_SECOND / 2, deadline)
        marks |= {Mark.QUIET: quiet} if quiet is not None else {}
    if until is Mark.KUBELET and "kubelet-ready" in factory.profile.claims:
        within = factory.profile.boot.ready_within
        machine.wait_until(machine.guest.kubelet.health, "the kubelet is healthy", within=within)
        marks[Mark.KUBELET] = time.monotonic() - machine.boot.power_on
    return marks


def _quiet(machine: Machine) -> float | None:
    """When the last second began, if little was executed in it."""
    assert machine.boot.counts is not None
    record, start = machine.boot.counts.record(), machine.boot.power_on
    last = record.samples[-1]
    before = _sample(record, last.at - _SECOND)
    rate = last.counts.work / (last.at - start)
    return before.at - start if last.counts.work - before.counts.work < _QUIET * rate * _SECOND else None


def _ask(machine: Machine) -> tuple[Alignment | None, list[UnitTimes]]:
    """The guest's clock on the host's, and its units on the host's clock, if the guest tells."""
    try:
        exchanges = [alignment.exchange(machine.guest.boot_times.monotonic) for _ in range(alignment.EXCHANGES)]
    except NotJudged:
        return None, []
    aligned, start = alignment.align(exchanges), machine.boot.power_on
    units = [UnitTimes(name=unit.name, processor=unit.processor, started=aligned.host(unit.started) - start,
                       active=aligned.host(unit.active) - start)
             for unit in machine.guest.boot_times.units()]  # fmt: skip
    return aligned, units


def _of_guest(machine: Machine, aligned: Alignment, units: list[UnitTimes]) -> dict[Mark, float]:
    """The marks that systemd remembers."""
    manager, start = machine.guest.boot_times.manager(), machine.boot.power_on
    named = {Mark.SYSTEMD: "userspace", Mark.FINISHED: "finished"}
    marks = {mark: aligned.host(manager[name]) - start for mark, name in named.items() if name in manager}
    names = {**_UNITS, Mark.TARGET: (machine.guest.boot_times.default_target(),)}
    return marks | {mark: unit.active for mark, wanted in names.items() for unit in units if unit.name in wanted}


def _at(record: CounterRecord, start: float, at: float, exact: Stamp | None) -> Progress:
    """What had been executed by then: as the counter saw it at that instruction, or at the nearest sample."""
    first = _sample(record, start)
    stamp = exact or _sample(record, start + at)
    return Progress(at=at, counts=stamp.counts.since(first.counts), idle=stamp.idle - first.idle)


def _sample(record: CounterRecord, at: float) -> Stamp:
    place = bisect.bisect_left(record.samples, at, key=lambda sample: sample.at)
    return record.samples[min(place, len(record.samples) - 1)]


def _curve(record: CounterRecord, start: float) -> list[Progress]:
    samples = [sample for sample in record.samples if sample.at >= start]
    return [_at(record, start, sample.at - start, sample) for sample in samples[:: max(1, len(samples) // _POINTS)]]
