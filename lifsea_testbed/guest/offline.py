"""The files of an image read from its disk, and the subjects of a guest that they can answer for without a shell.

No byte of the disk is parsed here: every question goes to a confined reader (disk_questions.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from lifsea_testbed.disk import layers
from lifsea_testbed.disk.image import Image
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest import accounts, disk_questions, files, kernel, ostree, packages, system, units
from lifsea_testbed.guest.disk_questions import FileSize, KernelEntry
from lifsea_testbed.profiles.recognition import ReleaseFacts
from lifsea_testbed.support.firmware import BootLoaders
from lifsea_testbed.support.protocols import Shell
from lifsea_testbed.support.questions import Question

#: How many files an error names.
_SHOWN = 5
P = ParamSpec("P")
T = TypeVar("T")


class OfflineTree:
    """The files of the system that boots next from an image, as a confined reader finds them.

    The reader runs until the object is gone. Every call raises DiskDamaged where the disk contradicts itself, and
    NotJudged where it holds something that is not read offline, or more than a reader may read.
    """

    def __init__(self, image: Image, *overlays: Path) -> None:
        self._reader = layers.reader(disk_questions.__name__, image, *overlays)

    def ask(self, question: Question[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns the answer to a question of `disk_questions`."""
        return self._reader.ask(question, *args, **kwargs)

    def os_release(self) -> dict[str, str]:
        """Returns the fields of os-release(5), unquoted.

        Raises:
            NotJudged: the image has no such file.
        """
        return self.ask(disk_questions.os_release)

    def release(self, markers: Iterable[str]) -> ReleaseFacts:
        """Returns what tells which OS this is, and which of those files exist.

        Raises:
            NotJudged: the image has neither an os-release nor a system-release.
        """
        found = self.ask(disk_questions.release, list(markers))
        if not found.os_release and not found.system_release.strip():
            names = ", ".join((*system.OS_RELEASE, disk_questions.SYSTEM_RELEASE))
            raise NotJudged(f"the image has no {names}", Reason.IMAGE)
        others = f" (partition {', '.join(map(str, found.others))} holds a system as well)" if found.others else ""
        return ReleaseFacts(os_release=found.os_release, system_release=found.system_release, files=found.files,
                            place=f"partition {found.partition}{others}")  # fmt: skip

    def loaders(self) -> BootLoaders:
        """Returns what the disk has for a BIOS and for UEFI to boot."""
        return self.ask(disk_questions.loaders)

    def first_entry(self) -> KernelEntry:
        """Returns the kernel and the options of the boot entry that comes first.

        Raises:
            NotJudged: the image has no readable boot entry, or no kernel at the path that the entry names.
        """
        return self.ask(disk_questions.first_entry)

    def journal_files(self) -> list[FileSize]:
        """Returns the files of the system's journal, sorted by path."""
        return self.ask(disk_questions.journal_files)

    def content(self, file: FileSize) -> Iterator[bytes]:
        """Yields the content of a file in pieces of at most 4 MiB: no more bytes than it said to have."""
        for offset in range(0, file.size, disk_questions.PART):
            yield self.ask(disk_questions.part, file.path, offset, min(disk_questions.PART, file.size - offset))


def read(image: Image, *overlays: Path) -> OfflineTree:
    """Returns the files of the image, with those that a machine wrote above it: the layers of its disk, lowest first.

    Nobody may write to the layers.

    Raises:
        DiskDamaged: the disk contradicts itself.
        NotJudged: it cannot be read offline.
    """
    offline = OfflineTree(image, *overlays)
    offline.ask(disk_questions.require_root)
    return offline


class OfflineFiles(files.Files):
    """Programs, names, privileges and links read from the disk; everything else needs a shell.

    What is not found anywhere is not judged where a part of the disk cannot be read.
    """

    def __init__(self, shell: Shell, offline: Callable[[], OfflineTree],
                 own: Callable[[], Sequence[str]] = tuple) -> None:  # fmt: skip
        super().__init__(shell, own)
        self._offline = offline

    def holding(self, lines: Iterable[str]) -> list[str]:
        """Returns the small files, of at most 32 KiB, that have one of these as a whole line, sorted."""
        return self._offline().ask(disk_questions.holding, list(lines))

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """Returns the files whose name matches one of the shell's patterns, sorted."""
        return self._offline().ask(disk_questions.matching, list(patterns))

    def setuid(self) -> list[str]:
        """Returns every regular file that gives privileges to its caller, sorted: setuid, setgid, or capabilities."""
        return self._offline().ask(disk_questions.setuid)

    def link_target(self, path: str) -> str:
        """Returns the path that this one leads to when every link is followed; the last part need not exist."""
        return self._offline().ask(disk_questions.link_target, path)

    def _own_targets(self) -> list[str]:
        return [self.link_target(path) for path in self._own()]

    def executables_named(self, patterns: Iterable[str]) -> list[str]:
        """Returns the programs whose whole file name matches one of the patterns (regular expressions), sorted."""
        return self._offline().ask(disk_questions.executables_named, list(patterns))

    def executables_holding(self, marks: Iterable[str]) -> list[str]:
        """Returns the programs, libraries, archives and disk images in whose content a mark occurs, sorted."""
        return self._without_own(self._offline().ask(disk_questions.executables_holding, list(marks)))

    def programs_holding(self, marks: Iterable[str]) -> list[str]:
        """Returns the programs and libraries in whose content one of the marks occurs, sorted, without archives."""
        return self._without_own(self._offline().ask(disk_questions.programs_holding, list(marks)))


class OfflinePackages(packages.Packages):
    """Packages read from the database on the disk."""

    def __init__(self, shell: Shell, databases: Sequence[str], offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell, databases)
        self._offline = offline

    def installed(self) -> list[packages.Package]:
        """Returns the installed packages, sorted, from the first database that exists: dpkg's, or else rpm's.

        Raises:
            NotJudged: the image carries no database that can be read.
        """
        return self._offline().ask(disk_questions.installed, list(self._databases))


class OfflineDeployments(ostree.Deployments):
    """The deployed files compared with their commit, read from the disk; everything else needs a shell."""

    def __init__(self, shell: Shell, offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell)
        self._offline = offline

    def changed_files(self) -> list[str]:
        """Returns the files below /usr that differ from those of the commit that boots next, by its own checksums."""
        return self._offline().ask(disk_questions.changed_files)


class OfflineUnits(units.Units):
    """Unit files read from the disk; their states need a shell."""

    def __init__(self, shell: Shell, offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell)
        self._offline = offline

    def named(self, pattern: str) -> list[str]:
        """Returns the unit files whose whole name matches, without those of generators and of /run."""
        return self._offline().ask(disk_questions.units_named, pattern)

    def has_bus_name(self, name: str) -> bool:
        """Returns False where the policy on the disk lets no program own the name.

        Raises:
            NotJudged: a program may own it; whether one does is not on the disk.
        """
        if granting := self._offline().ask(disk_questions.bus_name_grants, name):
            raise NotJudged(f"the disk does not show whether a program has the name {name} on the system bus, which "
                            f"{', '.join(granting)} allows", Reason.IMAGE)
        return False


class OfflineKernel(kernel.Kernel):
    """Boot entries and kernel images read from the disk; the running kernel needs a shell."""

    def __init__(self, shell: Shell, allowed_errors: Sequence[str], offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell, allowed_errors)
        self._offline = offline

    def initramfs_signs(self) -> list[str]:
        """Returns the boot entries and unified kernel images that load an initramfs; the log is not on the disk.

        Raises:
            NotJudged: there is no boot entry that can be read.
        """
        return self._offline().ask(disk_questions.initramfs_signs)

    def loaded_modules(self, prefixes: Sequence[str]) -> list[str]:
        """Returns none where neither the disk nor an initramfs holds such a module.

        Raises:
            NotJudged: one of them may hold one; whether it was loaded is not on the disk.
        """
        if found := [*self.initramfs_signs(), *self._offline().ask(disk_questions.modules, list(prefixes))]:
            raise NotJudged("the disk does not show which modules are loaded, and there are some to load: "
                            f"{', '.join(found[:_SHOWN])}", Reason.IMAGE)
        return []


class OfflineSystem(system.System):
    """os-release and the presence of a shell read from the disk; the running system needs a shell."""

    def __init__(self, shell: Shell, identity_files: Sequence[str], offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell, identity_files)
        self._offline = offline

    def os_release(self) -> dict[str, str]:
        """Returns the fields of os-release(5), unquoted."""
        return self._offline().os_release()

    def udev_rules(self) -> list[str]:
        """Returns the rules of all udev files on the disk; none of those that a boot makes in /run."""
        return self._offline().ask(disk_questions.udev_rules)

    def has_posix_shell(self) -> bool:
        """Returns whether /bin/sh leads to an executable file; it is not run."""
        return self._offline().ask(disk_questions.has_posix_shell)


class OfflineAccounts(accounts.Accounts):
    """Passwords, PAM and the units that log in read from the disk; processes need a shell."""

    def __init__(self, shell: Shell, offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell)
        self._offline = offline

    def with_password(self) -> list[str]:
        """Returns the accounts that a password opens, or none is needed for, and groups with a password, sorted."""
        return self._offline().ask(disk_questions.with_password)

    def without_password(self) -> list[str]:
        """Returns the services of PAM that let in whoever gives a wrong password, each with the module that does."""
        return self._offline().ask(disk_questions.without_password)

    def automatic_logins(self) -> list[str]:
        """Returns the unit files that log somebody in without a password, or start a shell on a terminal at boot."""
        return self._offline().ask(disk_questions.automatic_logins)
