"""A snapshot: a machine that was saved while it ran, as files that any number of machines are restored from.

`template.json` holds the facts about the machine; beside it lie the memory, the state of the devices, the layers of the
disk above the image, the UEFI variables, and the machine's records: its first boot is the first boot of every machine
that is restored.
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

#: The format of the files and their content; a snapshot of another format is made again.
FORMAT = 3
FACTS, MEMORY, STATE, RECORDS, VARIABLES = "template.json", "memory", "state", "records", "variables.fd"
#: How far a restored guest's clock may be off, in addition to half the time that its answer took (microseconds).
_CLOCK_TOLERANCE = 250_000
#: Readings of the clock before a save: one for each shell that waits in the guest.
_READINGS = 4
#: How long the program that steps the guest's clock may take (seconds on the host).
_RESEEDING = 30.0


class SnapshotFacts(BaseModel):
    """The identity of the saved machine, and the facts that are needed to resume it and open its channel.

    `image` is the path that the image had, `clock` the guest's when it was stopped (microseconds since the epoch),
    `tokens` are the metadata service's with the seconds that they stay valid, `requests` the requests to it. `seconds`
    is the time that making the snapshot took, `quiet_seconds` the part of it in which the guest became quiet.
    `reseed_nonce` marks the answers of the program that waits in the guest to step its clock; empty if none waits.
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
    requests: list[MetadataRequest]
    made_at: str
    seconds: float
    quiet_seconds: float
    reseed_nonce: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A directory with a saved machine; its files are never written again."""

    directory: Path
    facts: SnapshotFacts

    @property
    def memory(self) -> MemoryFile:
        """The memory of a machine that resumes from this snapshot; its writes stay private to it."""
        return MemoryFile(path=self.directory / MEMORY, copied=True, state=self.directory / STATE)

    @property
    def layers(self) -> Layers:
        """The layers between the image and the overlay of a machine that resumes from this snapshot."""
        below = tuple(disk(self.directory, number) for number in range(1, self.facts.disks + 1))
        variables = self.directory / VARIABLES if self.facts.instance.firmware.is_uefi else None
        return Layers(below=below, variables=variables)


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


def save(machine: Machine, directory: Path, *, key: dict[str, str], profile: str, clock_offset: int = 0,
         seconds: float = 0.0, quiet_seconds: float = 0.0, reseed_nonce: str = "") -> Snapshot:
    """Stops a machine for good and saves it; its memory must lie in a file of its own.

    `clock_offset` is how far its clock is ahead of the host's (microseconds), `reseed_nonce` the result of
    `prepare_reseed`. Files that are in the directory already stay there, the others are copied.

    Raises:
        TestbedError: QEMU could not save it, or its memory is not in a file of its own.
        HostError: the disk is full.
    """
    memory = machine.memory_file
    if memory is None:
        raise TestbedError("the memory of this machine cannot be saved", expected="a machine that was not rebooted",
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
        shell_after=machine.shell_after, clock=stopped_at + clock_offset,
        tokens=tokens, requests=machine.requests, made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds=seconds, quiet_seconds=quiet_seconds, reseed_nonce=reseed_nonce,
    )  # fmt: skip
    shutil.copytree(machine.records, directory / RECORDS, dirs_exist_ok=True)
    (directory / FACTS).write_text(facts.model_dump_json(indent=1) + "\n", "utf-8")
    for path in directory.iterdir():
        if path.is_file():
            path.chmod(0o444)
    return Snapshot(directory=directory, facts=facts)


def keep(machine: Machine, directory: Path, *, key: dict[str, str], profile: str) -> Snapshot:
    """Stops a machine for good and saves it in that directory, which is emptied first.

    Raises:
        TestbedError: its memory is not in a file of its own, or QEMU is gone.
        HostError: the disk is full.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return save(machine, directory, key=key, profile=profile)


def measure_clock_offset(machine: Machine) -> int:
    """Returns how far the guest's clock is ahead of the host's (microseconds), from the quickest of several readings.

    Raises:
        ChannelError: the guest's clock cannot be stepped, so no machine can be restored from it.
    """
    return min((_measure_offset(lambda: clock_reseed.step_and_reseed(machine, step=0)) for _ in range(_READINGS)),
               key=lambda reading: reading[1])[0]


def prepare_reseed(machine: Machine) -> str:
    """Starts the program in the guest that will step its clock after a restore, and returns the nonce of its answers.

    The machine takes no command after that. On a serial line, which does not carry every byte, no program is started,
    and the nonce is empty.

    Raises:
        ChannelError, WaitTimedOut: the program does not start.
    """
    channel = machine.boot.channel
    if not isinstance(channel, PortChannel):
        return ""
    program = clock_reseed.install_waiting_program(machine)
    clock_reseed.start_waiting_program(channel, program, Deadline.after(_RESEEDING))
    return program.nonce


def resume(snapshot: Snapshot, machine: Machine) -> None:
    """Resumes a machine that was made from the snapshot, with the current time and random numbers of its own.

    Raises:
        TestbedError: it does not resume, has another boot id, or its clock is wrong.
    """
    facts = snapshot.facts
    machine.metadata.restore(facts.tokens, facts.requests)
    for name in ("transcript", "journal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(snapshot.directory / RECORDS / f"{name}-1.txt", machine.records / f"template-{name}.txt")
    readings: list[tuple[int, int]] = []

    def reseed(channel: Channel) -> None:
        if facts.reseed_nonce and isinstance(channel, PortChannel):
            readings.append(_measure_offset(lambda: clock_reseed.step_and_reseed_waiting(
                channel, facts.reseed_nonce, deadline=Deadline.after(_RESEEDING),
                step=machine.boot.started_at - facts.clock)))  # fmt: skip

    try:
        machine.resume(facts.access, access_method=facts.access_method, shell_after=facts.shell_after, first=reseed)
        offset, error_bound = readings[0] if readings else \
            _measure_offset(lambda: clock_reseed.step_and_reseed(machine, step=machine.boot.started_at - facts.clock))
    except GuestFailure as error:
        raise TestbedError(f"a restored machine does not answer: {error.happened}", evidence=error.evidence) from error
    if machine.boot_id != facts.boot_id:
        raise TestbedError("a restored machine has another boot id than its snapshot", evidence=machine.boot_id,
                           expected=facts.boot_id)  # fmt: skip
    if abs(offset) > error_bound + _CLOCK_TOLERANCE:
        raise TestbedError(f"the clock of a restored machine is wrong by {offset / 1e6:.3f} s",
                           expected=f"at most {(error_bound + _CLOCK_TOLERANCE) / 1e6:.3f} s",
                           hint="use --cold to boot machines instead")  # fmt: skip


def _measure_offset(step_clock: Callable[[], int]) -> tuple[int, int]:
    """Steps the guest's clock; returns how far it is ahead after that, and the largest error (microseconds)."""
    before = time.time_ns() // 1000
    clock = step_clock()
    after = time.time_ns() // 1000
    return clock - (before + after) // 2, (after - before) // 2


def _disks(machine: Machine, directory: Path) -> list[tuple[Path, Path]]:
    disks = [(path, disk(directory, number)) for number, path in enumerate(machine.disks, start=1)]
    store = machine.boot.disks.variables
    return [*disks, (store.path, directory / VARIABLES)] if store else disks


def _copy_into(source: Path, target: Path) -> None:
    if not target.exists():
        copy_sparse(source, target)
    if os.geteuid() == 0:
        os.chown(target, 0, 0)
