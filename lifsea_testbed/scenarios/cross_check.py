"""The cross-check: what a running machine answers is compared with a copy of its disk, read offline.

The copy is made while the machine stands still, after the guest synced: it holds what a power cut at that moment would
leave, and the readers replay the file system's journal as a boot would. Nothing that runs in the guest takes part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.errors import HostError
from lifsea_testbed.guest.cross_checked import Answered, CrossCheckedGuest, Road
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.offline import OfflineTree
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import AccessMethod
from lifsea_testbed.qemu.storage import copy_sparse

#: How long the guest may take to write to its disk what it holds in memory (seconds on real hardware).
_SYNCING = 60.0


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """A machine, the moment at which its disk was copied, the file with the copy, and the guest that reads it."""

    machine: Machine
    moment: tuple[int, str]
    path: Path
    disk: Guest


class DiskCopies:
    """The last copy of each machine's disk, as long as the machine runs; all are removed at the end of the context."""

    def __init__(self, factory: MachineFactory) -> None:
        self._factory = factory
        self._copies: list[_Copy] = []

    def __enter__(self) -> DiskCopies:
        return self

    def __exit__(self, *_: object) -> None:
        """Removes every copy."""
        self._keep(lambda copy: False)

    def of(self, machine: Machine, moment: str = "") -> Guest:
        """Returns the guest that reads a copy of the machine's disk, made in this boot and at that moment.

        Raises:
            HostError: the copy could not be written.
        """
        seen = len(machine.boots), moment
        for copy in self._copies:
            if copy.machine is machine and copy.moment == seen:
                return copy.disk
        self._keep(lambda copy: copy.machine is not machine and not copy.machine.boot.liveness.ended)
        path = self._factory.scratch_path("disk-copy.qcow2")
        copy_overlay(machine, path)
        tree = OfflineTree(machine.image, *machine.disks[:-1], path)
        disk = machine.guest.without_shell(lambda: tree)
        self._copies.append(_Copy(machine=machine, moment=seen, path=path, disk=disk))
        return disk

    def _keep(self, wanted: Callable[[_Copy], bool]) -> None:
        for copy in self._copies:
            if not wanted(copy):
                copy.path.unlink(missing_ok=True)
        self._copies = [copy for copy in self._copies if wanted(copy)]


class CrossCheck:
    """Compares the answers of guests with their disks, for one test; `answers` are those given so far.

    Called with a machine, it returns the subjects of its guest of which each answer is compared. One without a shell is
    read from its disk alone.
    """

    def __init__(self, copies: DiskCopies, moment: str = "") -> None:
        self.answers: list[Answered] = []
        self._copies, self._moment = copies, moment

    def __call__(self, machine: Machine) -> CrossCheckedGuest:
        """Returns the subjects of the machine's guest, each answer compared with that of its disk."""
        has_shell = machine.access_method != AccessMethod.NONE
        disk = self._copies.of(machine, self._moment) if has_shell else None
        return CrossCheckedGuest(machine.guest, disk, self.answers.append)

    @property
    def roads(self) -> tuple[Road, ...]:
        """The roads by which every answer was given."""
        return tuple(road for road in Road if self.answers and all(road in one.roads for one in self.answers))

    @property
    def why_one(self) -> str:
        """Why an answer was not given by both, in one line; empty if all were."""
        return next((one.why for one in self.answers if one.why), "")


def copy_overlay(machine: Machine, target: Path) -> None:
    """Copies the uppermost layer of a machine's disk, which stands still meanwhile.

    Raises:
        HostError: the copy could not be written, or the overlay is no regular file any more.
    """
    if machine.boot.liveness.ended:
        copy_file(machine.disks[-1], target)
        return
    machine.run("sync", check=False, within=_SYNCING)
    with standing_still(machine):
        copy_file(machine.disks[-1], target)


@contextlib.contextmanager
def standing_still(machine: Machine) -> Iterator[None]:
    """Stops the machine between two instructions; QEMU then has written all that it had cached (QMP, stop)."""
    machine.boot.execute("stop")
    try:
        yield
    finally:
        machine.boot.execute("cont")


def copy_file(source: Path, target: Path) -> None:
    """Copies a regular file with its holes; a symbolic link is not followed.

    Raises:
        HostError: it is another kind of file, or cannot be read, or the copy cannot be written.
    """
    try:
        copy_sparse(source, target)
    except HostError as error:
        target.unlink(missing_ok=True)
        raise HostError(f"the disk of a machine could not be copied: {error.happened}", evidence=error.evidence,
                        hint="free disk space, or set TMPDIR to another disk") from error
