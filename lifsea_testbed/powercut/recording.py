"""A recording: the disk of a machine at the start of an operation, and the log of all its writes from then on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from lifsea_testbed.disk.image import Image
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import CallerError, LaunchError, NotJudged, Reason, TestbedError
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut.crash_states import CrashState, CrashStates
from lifsea_testbed.powercut.disk_contents import DiskContents
from lifsea_testbed.powercut.operation import OFFER, Operation, OperationResult, PreparedDisk
from lifsea_testbed.powercut.recorded_disk import RecordedDisk
from lifsea_testbed.powercut.write_log import WriteLog
from lifsea_testbed.qemu.storage import Layers, beside
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.upgrade.offer import Offer
from lifsea_testbed.upgrade.repository import Repository

#: How long the machine runs on after the operation has announced success (seconds by the guest's clock): the kernel
#: writes back pages older than 30 s (Documentation/admin-guide/sysctl/vm.rst, dirty_expire_centisecs), with an
#: interval of 5 s.
SETTLE = 40.0
_LOG, _FINAL, _FACTS = "writes.log", "final.qcow2", "recording.json"
_ENDING = 30.0


@dataclass(frozen=True, kw_only=True)
class RecordingFacts:
    """The facts of a recording: the images by digest, the profile, the identity of the machine, the two commits.

    `subject` is the operation's name, `layers` are the files above the image, `offer` is the image offered to the
    machine. `started` and `announced` are the numbers of log entries at its start and success; `disk_size` is in bytes.
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
    """A directory with a recording; its files are never changed afterwards."""

    directory: Path
    facts: RecordingFacts

    @property
    def layers(self) -> tuple[Path, ...]:
        """The layers above the image from before the recording, the lowest first."""
        return tuple(self.directory / name for name in self.facts.layers)

    @property
    def log(self) -> Path:
        """The log of writes and flushes."""
        return self.directory / _LOG

    @property
    def repository(self) -> Repository:
        """The repository that serves the offer again."""
        return Repository(self.directory / OFFER)


class StateReader(Protocol):
    """What is read of the file systems on crash states' disks; RecordedDisk has the guarantees."""

    def never_used(self, state: CrashState) -> set[int]:
        """Returns sectors whose content makes no difference to a boot of that state's disk."""
        ...

    def overwritten_unseen(self, state: CrashState) -> set[int]:
        """Returns sectors that a journal's recovery overwrites before the kernel uses them."""
        ...

    def listing(self, state: CrashState) -> str:
        """Returns a listing of ostree's boot directories."""
        ...


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """An open recording: its log, its disk, the contents of each state's disk, and the states."""

    facts: RecordingFacts
    log: WriteLog
    disk: StateReader
    contents: DiskContents
    states: CrashStates


def load(directory: Path, image: Image, next_image: Image | None, operation: str) -> Recording | None:
    """Returns the recording in that directory, or None if there is none.

    Raises:
        CallerError: it is of other images, or of another operation.
    """
    path = directory / _FACTS
    if not path.is_file():
        return None
    found = json.loads(path.read_text("utf-8"))
    offer = found["offer"] and Offer(**found["offer"])
    facts = RecordingFacts(**{**found, "layers": tuple(found["layers"]), "offer": offer})
    if facts.subject != operation:
        raise CallerError(f"{directory} holds a recording of --cut {facts.subject}, not of --cut {operation}",
                          hint="name another directory with --recording")  # fmt: skip
    if facts.image != image.sha256 or (next_image and facts.next_image != next_image.sha256):
        raise CallerError(f"{directory} holds a recording of other images",
                          hint="name another directory with --recording")
    return Recording(directory=directory, facts=facts)


@contextlib.contextmanager
def timeline(recording: Recording, image: Image, *, seed: int = 1) -> Iterator[Timeline]:
    """Opens a recording for as long as the context."""
    facts = recording.facts
    disk = RecordedDisk(image, recording.layers, recording.log)
    with contextlib.closing(disk), RawFile(recording.log) as file:
        log = WriteLog(file, disk_size=facts.disk_size)
        yield Timeline(facts=facts, log=log, disk=disk, contents=DiskContents(log, disk),
                       states=CrashStates(log.entries, start=facts.started, seed=seed))  # fmt: skip


def instance(factory: MachineFactory, facts: RecordingFacts) -> Instance:
    """Returns the identity of the recorded machine."""
    return Instance(type=factory.instance_type, id=facts.instance, uuid=facts.uuid, disk_serial=facts.disk_serial,
                    mac=facts.mac, firmware=factory.context.firmware)  # fmt: skip


def record(factory: MachineFactory, directory: Path, operation: Operation, *, settle: float = SETTLE) -> Recording:
    """Records the writes of an operation, from a clean boot until the kernel has written everything back.

    Raises:
        TestbedError: the log is unsound, or its replay differs from the disk at the end.
        GuestFailure: the machine did not boot, or the operation failed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log, final = directory / _LOG, directory / _FINAL
    prepared = operation.prepare(factory, directory)
    log.write_bytes(b"")
    layers = Layers(below=prepared.layers, overlay=final, write_log=log, variables=prepared.variables)
    spec = MachineSpec(name="powercut-record", state=InitialState.OFF, layers=layers, instance=prepared.instance)
    with factory.create(spec) as machine:
        machine.network.serve_mirror(Repository(directory / OFFER))
        watch = VariableWatch(machine)

        def length() -> int:
            watch.begin()
            return log.stat().st_size

        done = operation.run(machine, prepared, length)
        if not machine.boot.liveness.end_is_expected:
            _settle(machine, settle)
        watch.require_same()
    disk = RecordedDisk(factory.image, prepared.layers, log, final)
    with contextlib.closing(disk), RawFile(log) as file:
        read = WriteLog(file, disk_size=disk.size)
        disk.check_replay()
    facts = _facts(factory, operation, prepared, done, read)
    (directory / _FACTS).write_text(json.dumps(asdict(facts), indent=1) + "\n", "utf-8")
    for path in (final, beside(final)):
        path.unlink(missing_ok=True)
    return Recording(directory=directory, facts=facts)


class VariableWatch:
    """Notices that an operation writes UEFI variables: their order among the disk's writes is not recorded."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before: bytes | None = None

    def begin(self) -> None:
        """Notes the variables, at the first call."""
        self._before = self._content() if self._before is None else self._before

    def require_same(self) -> None:
        """Makes sure that they are still the same; firmware writes them too, before an operation begins.

        Raises:
            NotJudged: they are not.
        """
        if self._before is not None and self._content() != self._before:
            raise NotJudged("the operation writes UEFI variables; a power cut among those writes is not swept",
                            Reason.IMAGE)

    def _content(self) -> bytes:
        store = self._machine.boot.disks.variables
        return store.path.read_bytes() if store else b""


def _settle(machine: Machine, seconds: float) -> None:
    """Lets the machine run for a while, then ends QEMU, so that the log is whole."""
    machine.boot.liveness.pause(seconds, Deadline.after(seconds))
    machine.boot.liveness.expect_end()
    with contextlib.suppress(LaunchError):
        machine.boot.execute("quit")
    if not machine.boot.wait_until_off(Deadline.after(_ENDING)):
        raise TestbedError(f"QEMU did not quit within {_ENDING:.0f} s, so the end of the log is missing",
                           hint="record again")  # fmt: skip


def _facts(factory: MachineFactory, operation: Operation, prepared: PreparedDisk, done: OperationResult,
           log: WriteLog) -> RecordingFacts:
    instance = prepared.instance
    return RecordingFacts(
        subject=operation.name, image=factory.image.sha256,
        next_image=factory.next_image.sha256 if factory.next_image else "",
        profile=factory.profile.name, instance=instance.id, uuid=instance.uuid, disk_serial=instance.disk_serial,
        mac=instance.mac, layers=tuple(path.name for path in prepared.layers), old=done.old, new=done.new,
        started=log.count_at(done.started), disk_size=log.disk_size, qemu=factory.emulator.version,
        offer=prepared.offer,
        announced=len(log.entries) + 1 if done.announced is None else log.count_at(done.announced),
    )  # fmt: skip
