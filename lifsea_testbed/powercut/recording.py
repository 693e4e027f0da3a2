"""A recording: the disk of a machine that is about to upgrade, say, and the log of all that it writes from then on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lifsea_testbed.disk.image import Image
from lifsea_testbed.disk.qcow2 import Qcow2, open_layers
from lifsea_testbed.disk.source import ByteSource, RawFile
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import CallerError, LaunchError, TestbedError
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut.crash_states import CrashStates, prefix
from lifsea_testbed.powercut.disk_contents import CLUSTER, Contents
from lifsea_testbed.powercut.operation import OFFER, Prepared, Subject, Told
from lifsea_testbed.powercut.write_log import WriteLog
from lifsea_testbed.qemu.storage import Layers
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.upgrade.offer import Offer
from lifsea_testbed.upgrade.repository import Repository

#: How long the machine is left alone after the tool has announced success (seconds by the guest's clock): the kernel
#: writes back what is older than 30 s (Documentation/admin-guide/sysctl/vm.rst, dirty_expire_centisecs), with an
#: interval of 5 s between two looks.
SETTLE = 40.0
_LOG, _FINAL, _FACTS = "writes.log", "final.qcow2", "recording.json"
_ENDING = 30.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a recording is of: the images by digest, the profile, the identity of the machine, the two commits.

    `subject` is what is cut, `layers` are the files that lay above the image then, `offer` is what it could
    be upgraded to. `started` and `announced` are how many entries the log had when it began and when it was said to be
    done; `disk_size` is in bytes.
    """

    subject: str
    image: str
    next_image: str
    profile: str
    instance: str
    uuid: str
    disk_serial: str
    mac: str
    layers: tuple[str, ...]
    old: str
    new: str
    started: int
    announced: int
    disk_size: int
    qemu: str
    offer: Offer | None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A directory with a recording: the files stay as they are while states are made and judged."""

    directory: Path
    facts: Facts

    @property
    def layers(self) -> tuple[Path, ...]:
        """What the machine wrote above the image before it was recorded, the lowest first."""
        return tuple(self.directory / name for name in self.facts.layers)

    @property
    def log(self) -> Path:
        """The log of its writes and flushes."""
        return self.directory / _LOG

    @property
    def repository(self) -> Repository:
        """Where what was on offer can be had again."""
        return Repository(self.directory / OFFER)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A recording that is open: its log, what each state's disk holds, and the states themselves."""

    facts: Facts
    log: WriteLog
    contents: Contents
    states: CrashStates


def load(directory: Path, image: Image, next_image: Image | None, subject: str) -> Recording | None:
    """Returns the recording in that directory, or nothing if there is none.

    Raises:
        CallerError: it is of other images, or of something else.
    """
    path = directory / _FACTS
    if not path.is_file():
        return None
    found = json.loads(path.read_text("utf-8"))
    facts = Facts(**{**found, "layers": tuple(found["layers"]), "offer": found["offer"] and Offer(**found["offer"])})
    if facts.subject != subject:
        raise CallerError(f"{directory}: holds a recording of another subject: {facts.subject}",
                          hint="choose another --recording")  # fmt: skip
    if facts.image != image.sha256 or (next_image and facts.next_image != next_image.sha256):
        raise CallerError(f"{directory}: holds a recording of other images", hint="choose another --recording")
    return Recording(directory=directory, facts=facts)


@contextlib.contextmanager
def timeline(recording: Recording, image: Image, *, seed: int = 1) -> Iterator[Timeline]:
    """Opens a recording for as long as the context."""
    facts = recording.facts
    with open_layers(image, *recording.layers) as base, RawFile(recording.log) as file:
        log = WriteLog(file, disk_size=facts.disk_size)
        yield Timeline(facts=facts, log=log, contents=Contents(log, base),
                       states=CrashStates(log.entries, start=facts.started, seed=seed))  # fmt: skip


def instance(factory: MachineFactory, facts: Facts) -> Instance:
    """Returns the machine that was recorded."""
    return Instance(type=factory.instance_type, id=facts.instance, uuid=facts.uuid, disk_serial=facts.disk_serial,
                    mac=facts.mac)  # fmt: skip


def record(factory: MachineFactory, directory: Path, subject: Subject, *, settle: float = SETTLE) -> Recording:
    """Records what the subject does to the disk, from a clean boot until the kernel has written all back.

    Raises:
        TestbedError: the log is unsound, or its replay is not what the disk held in the end.
        GuestFailure: the machine did not come up, or did not do it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log, final = directory / _LOG, directory / _FINAL
    prepared = subject.prepare(factory, directory)
    log.write_bytes(b"")
    layers = Layers(below=prepared.layers, overlay=final, write_log=log)
    spec = MachineSpec(name="powercut-record", state=InitialState.OFF, layers=layers, instance=prepared.instance)
    with factory.create(spec) as machine:
        machine.network.serve_mirror(Repository(directory / OFFER))
        told = subject.act(machine, prepared, lambda: log.stat().st_size)
        if not machine.boot.liveness.end_is_expected:
            _settle(machine, settle)
    with open_layers(factory.image, *prepared.layers) as below, RawFile(log) as file, RawFile(final) as last:
        read = WriteLog(file, disk_size=below.size)
        check(read, below, Qcow2(last, below))
    facts = _facts(factory, subject, prepared, told, read)
    (directory / _FACTS).write_text(json.dumps(asdict(facts), indent=1) + "\n", "utf-8")
    final.unlink()
    return Recording(directory=directory, facts=facts)


def _settle(machine: Machine, seconds: float) -> None:
    """Leaves the machine alone for a while, and ends QEMU so that the log is whole."""
    machine.boot.liveness.pause(seconds, Deadline.after(seconds))
    machine.boot.liveness.expect_end()
    with contextlib.suppress(LaunchError):
        machine.boot.execute("quit")
    if not machine.boot.wait_until_off(Deadline.after(_ENDING)):
        raise TestbedError("QEMU did not quit, so the end of the log is not known", hint="record again")


def _facts(factory: MachineFactory, subject: Subject, prepared: Prepared, told: Told, log: WriteLog) -> Facts:
    instance, other = prepared.instance, factory.next_image
    return Facts(
        subject=subject.name, image=factory.image.sha256, next_image=other.sha256 if other else "",
        profile=factory.profile.name, instance=instance.id, uuid=instance.uuid, disk_serial=instance.disk_serial,
        mac=instance.mac, layers=tuple(path.name for path in prepared.layers), old=told.old, new=told.new,
        started=log.count_at(told.started), disk_size=log.disk_size, qemu=factory.emulator.version,
        offer=prepared.offer,
        announced=len(log.entries) + 1 if told.announced is None else log.count_at(told.announced),
    )  # fmt: skip


def check(log: WriteLog, base: ByteSource, final: Qcow2) -> None:
    """Makes sure that the whole log, replayed on the base, gives what the disk held in the end, byte for byte.

    Raises:
        TestbedError: it does not.
    """
    replayed = dict(Contents(log, base).clusters(prefix(len(log.entries))))
    written = {place // CLUSTER for offset, length in final.own() for place in range(offset, offset + length, CLUSTER)}
    for cluster in sorted(replayed.keys() | written):
        wanted = replayed.get(cluster)
        if wanted is None:
            wanted = base.read_at(cluster * CLUSTER, CLUSTER)
        if final.read_at(cluster * CLUSTER, CLUSTER) != wanted:
            raise TestbedError(f"the log of writes does not lead to the disk that it is of: byte {cluster * CLUSTER}",
                               expected="a replay of the whole log gives the disk as it was in the end",
                               hint="record again; QEMU before 9.0 may corrupt the log")  # fmt: skip
