"""A snapshot: a machine that was saved while it ran, as files that any number of machines are restored from.

`template.json` says whose memory it is; beside it lie the memory, the state of the devices, the layers of the disk
above the image, and the records of the machine: its first boot is that of every machine that is restored.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lifsea_testbed.console.channel import Channel, PortChannel
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import MetadataRequest
from lifsea_testbed.errors import GuestFailure, TestbedError
from lifsea_testbed.machine import clock_reseed
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import AccessSection
from lifsea_testbed.qemu.storage import Layers, MemoryFile, copy_sparse
from lifsea_testbed.support.deadline import Deadline

#: Of the files and of what is in them; one of another format is made anew.
FORMAT = 3
FACTS, MEMORY, STATE, RECORDS = "template.json", "memory", "state", "records"
#: How far a restored guest's clock may be off, beside the time that its answer took (microseconds).
_CLOCK_IS_RIGHT = 250_000
#: One for each shell that waits in the guest.
_READINGS = 4
#: How long the program that tells a guest the time may take (seconds on the host).
_RENEWAL = 30.0


class SnapshotFacts(BaseModel):
    """The identity of the machine whose memory it is, and the facts that are needed to talk to it.

    `image` is the path that the image had, `clock` is the guest's at the moment that it was stopped (microseconds since
    the epoch), `tokens` are those of the metadata service with the seconds that they are good for, `shell_after`,
    `took` (all that it cost) and `quiet` (the part of it that the guest took to come to rest) are seconds. `renewal` is
    the nonce by which the program answers that waits in the guest to tell it the time; without, none waits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    key: dict[str, str]
    image: str
    profile: str
    accelerator: str
    instance: Instance
    memory: int
    disks: int
    access_method: str
    access: AccessSection
    boot_id: str
    shell_after: float
    clock: int
    tokens: dict[str, float]
    seen: list[MetadataRequest]
    made: str
    took: float
    quiet: float
    renewal: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A directory with a saved machine; none of its files is written any more."""

    directory: Path
    facts: SnapshotFacts

    @property
    def memory(self) -> MemoryFile:
        """What a machine has to be given to go on from here; its writes are its own."""
        return MemoryFile(path=self.directory / MEMORY, copied=True, state=self.directory / STATE)

    @property
    def layers(self) -> Layers:
        """What has to lie between the image and the disk of a machine that goes on from here."""
        return Layers(below=tuple(disk(self.directory, number) for number in range(1, self.facts.disks + 1)))


def disk(directory: Path, number: int) -> Path:
    """Returns the path of a layer of the disk; the lowest is number 1."""
    return directory / f"disk-{number}.qcow2"


def load(directory: Path) -> Snapshot:
    """Returns the snapshot in that directory.

    Raises:
        TestbedError: there is none, or one of another format.
    """
    try:
        facts = SnapshotFacts.model_validate_json((directory / FACTS).read_bytes())
    except (OSError, ValidationError) as error:
        raise TestbedError(f"{directory} holds no snapshot that can be read", evidence=str(error)) from None
    if facts.format != FORMAT:
        raise TestbedError(f"{directory} holds a snapshot of format {facts.format}", expected=f"format {FORMAT}")
    return Snapshot(directory=directory, facts=facts)


def save(machine: Machine, directory: Path, *, key: dict[str, str], profile: str, ahead: int = 0,
         took: float = 0.0, quiet: float = 0.0, waiting: str = "") -> Snapshot:
    """Stops a machine for good and saves it; its memory must lie in a file of its own.

    `ahead` is how far its clock is ahead of the host's (microseconds), `waiting` what `wait` returned. The
    files that lie in the directory already stay there, the others are copied.

    Raises:
        TestbedError: QEMU could not save it.
        HostError: there is no room.
    """
    memory = machine.memory_file
    if memory is None:
        raise TestbedError("the memory of this machine cannot be saved", expected="a machine that did not boot again",
                           hint="a machine that was rebooted by its test is not kept")  # fmt: skip
    tokens = machine.metadata.tokens
    stopped_at = machine.boot.save(directory / STATE)
    machine.boot.close()
    for source, target in [(memory, directory / MEMORY), *_disks(machine, directory)]:
        _copy_into(source, target)
    facts = SnapshotFacts(
        key=key, image=str(machine.image.path), profile=profile, accelerator=key["accelerator"],
        instance=machine.instance, memory=machine.fidelity.memory, disks=len(machine.disks),
        access_method=machine.access_method, access=machine.access, boot_id=machine.boot_id,
        shell_after=machine.shell_after, clock=stopped_at + ahead,
        tokens=tokens, seen=machine.requests, made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), took=took,
        quiet=quiet, renewal=waiting,
    )  # fmt: skip
    shutil.copytree(machine.records, directory / RECORDS, dirs_exist_ok=True)
    (directory / FACTS).write_text(facts.model_dump_json(indent=1) + "\n", "utf-8")
    for path in directory.iterdir():
        if path.is_file():
            path.chmod(0o444)
    return Snapshot(directory=directory, facts=facts)


def keep(machine: Machine, directory: Path, *, key: dict[str, str], profile: str) -> Snapshot:
    """Saves a machine as it stands, in a directory of its own, which is emptied before.

    Raises:
        TestbedError: its memory is not in a file of its own, or QEMU is gone.
        HostError: there is no room.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return save(machine, directory, key=key, profile=profile)


def clock_ahead(machine: Machine) -> int:
    """Returns how far the guest's clock is ahead of the host's (microseconds), by the quickest of some answers.

    Raises:
        ChannelError: the guest cannot be told the time, so nothing can go on from it.
    """
    return min((_reading(lambda: clock_reseed.renew(machine, step=0)) for _ in range(_READINGS)),
               key=lambda reading: reading[1])[0]


def wait(machine: Machine) -> str:
    """Has a program wait in the guest that will tell it the time, and returns the nonce by which it will answer.

    The machine takes no command any more. On a line that does not carry every byte none waits, and nothing is returned.

    Raises:
        ChannelError, WaitTimedOut: the program does not start.
    """
    channel = machine.boot.channel
    if not isinstance(channel, PortChannel):
        return ""
    nonce = clock_reseed.put(machine)
    clock_reseed.wait(channel, nonce, Deadline.after(_RENEWAL))
    return nonce


def resume(snapshot: Snapshot, machine: Machine) -> None:
    """Resumes a machine that was made from the snapshot, with the time of now and random numbers of its own.

    Raises:
        TestbedError: it does not go on, or not as it should.
    """
    facts = snapshot.facts
    machine.metadata.restore(facts.tokens, facts.seen)
    for name in ("transcript", "journal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(snapshot.directory / RECORDS / f"{name}-1.txt", machine.records / f"template-{name}.txt")
    readings: list[tuple[int, int]] = []

    def wake(channel: Channel) -> None:
        if facts.renewal and isinstance(channel, PortChannel):
            readings.append(_reading(lambda: clock_reseed.wake(
                channel, facts.renewal, deadline=Deadline.after(_RENEWAL),
                step=machine.boot.started_at - facts.clock)))  # fmt: skip

    try:
        machine.resume(facts.access, access_method=facts.access_method, shell_after=facts.shell_after, first=wake)
        off, within = readings[0] if readings else \
            _reading(lambda: clock_reseed.renew(machine, step=machine.boot.started_at - facts.clock))
    except GuestFailure as error:
        raise TestbedError(f"a restored machine does not go on: {error.happened}", evidence=error.evidence) from error
    if machine.boot_id != facts.boot_id:
        raise TestbedError("a restored machine has another boot id than its snapshot", evidence=machine.boot_id)
    if abs(off) > within + _CLOCK_IS_RIGHT:
        raise TestbedError(f"the clock of a restored machine is wrong by {off / 1e6:.3f} s",
                           expected=f"at most {(within + _CLOCK_IS_RIGHT) / 1e6:.3f} s", hint="--cold boots machines")


def _reading(renew: Callable[[], int]) -> tuple[int, int]:
    """Steps the guest's clock; how far it is ahead then, and how far at most that is wrong (microseconds)."""
    before = time.time_ns() // 1000
    read = renew()
    after = time.time_ns() // 1000
    return read - (before + after) // 2, (after - before) // 2


def _disks(machine: Machine, directory: Path) -> list[tuple[Path, Path]]:
    return [(path, disk(directory, number)) for number, path in enumerate(machine.disks, start=1)]


def _copy_into(source: Path, target: Path) -> None:
    if not target.exists():
        copy_sparse(source, target)
    if os.geteuid() == 0:
        os.chown(target, 0, 0)
