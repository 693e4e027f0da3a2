"""The files of an image read from its disk, and the subjects of a guest that they can answer for without a shell."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lifsea_testbed.disk.filesystem import Tree
from lifsea_testbed.disk.image import Image
from lifsea_testbed.disk.os_root import OsRoot, os_root
from lifsea_testbed.disk.qcow2 import open_layers
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest import accounts, capabilities, formats, initramfs, kernel, packages, rpm, system, units
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.guest.files import NOT_OF_THE_SYSTEM, SMALL, Files
from lifsea_testbed.profiles.recognition import ReleaseFacts
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import CommandResult, Shell

#: Where a running system has file systems of the kernel, or memory, mounted.
_HIDDEN = ("/proc", "/sys", "/dev", "/run")
#: systemd.unit(5), "System Unit Search Path", without the directories that are filled anew at each boot.
_UNIT_PATHS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
               "/lib/systemd/system")  # fmt: skip
_UNIT_KINDS = (".service", ".socket", ".device", ".mount", ".automount", ".swap", ".target", ".path", ".timer",
               ".slice", ".scope")  # fmt: skip
_SYSTEM_RELEASE = "/etc/system-release"
_TEXT = 64 << 20


@dataclass(frozen=True, kw_only=True)
class OfflineFile:
    """A regular file: its path, its mode as in stat(2), and whether it has capabilities."""

    path: PurePosixPath
    mode: int
    has_capabilities: bool


class OfflineTree:
    """The files of the system that boots next from an image.

    Nothing stays open between calls. Every call raises DiskDamaged where the disk contradicts itself, and NotJudged
    where it holds something that is not read offline.
    """

    def __init__(self, image: Image, *layers: Path) -> None:
        self._image, self._layers = image, layers

    @contextlib.contextmanager
    def tree(self) -> Iterator[Tree]:
        """Yields the tree of files."""
        with self._root() as root:
            yield root.tree

    def os_release(self) -> dict[str, str]:
        """Returns the fields of os-release(5), unquoted.

        Raises:
            NotJudged: the image has no such file.
        """
        return system.parse_os_release(self.text(*system.OS_RELEASE))

    def release(self, markers: Iterable[str]) -> ReleaseFacts:
        """Returns what tells which OS this is, and which of those files exist.

        Raises:
            NotJudged: the image has neither an os-release nor a system-release.
        """
        with self._root() as root:
            fields = system.parse_os_release(_first_text(root.tree, system.OS_RELEASE) or "")
            line = _first_text(root.tree, (_SYSTEM_RELEASE,)) or ""
            files = frozenset(path for path in markers if root.tree.find(path))
        if not fields and not line.strip():
            raise NotJudged(f"the image has no {', '.join((*system.OS_RELEASE, _SYSTEM_RELEASE))}", Reason.IMAGE)
        others = f" (partition {', '.join(map(str, root.others))} holds a system as well)" if root.others else ""
        return ReleaseFacts(os_release=fields, system_release=line, files=files,
                            place=f"partition {root.partition}{others}")  # fmt: skip

    @functools.cached_property
    def files(self) -> list[OfflineFile]:
        """Every regular file of the system, sorted by path."""
        with self.tree() as tree:
            without = {path for pattern in NOT_OF_THE_SYSTEM for path in tree.glob(pattern)}
            found = [OfflineFile(path=path, mode=place.inode.mode,
                                 has_capabilities=capabilities.ATTRIBUTE in place.file_system.attributes(place.inode))
                     for path, place in tree.walk(without | set(map(PurePosixPath, _HIDDEN)))
                     if place.is_regular]  # fmt: skip
        return sorted(found, key=lambda file: file.path)

    @functools.cached_property
    def unread(self) -> tuple[str, ...]:
        """The parts of the disk that hold something and cannot be read."""
        with self.tree() as tree:
            return tree.unread

    def require_all_read(self) -> None:
        """Makes sure that everything on the disk can be read, so that what was not found is not there.

        Raises:
            NotJudged: a part of the disk cannot be read.
        """
        if self.unread:
            raise NotJudged(f"a part of the disk cannot be read offline: {'; '.join(self.unread)}", Reason.IMAGE)

    def text(self, *paths: str) -> str:
        """Returns the text of the first of those files that exists.

        Raises:
            NotJudged: the image has none of them.
        """
        with self.tree() as tree:
            text = _first_text(tree, paths)
        if text is None:
            raise NotJudged(f"the image has no {', no '.join(paths)}", Reason.IMAGE)
        return text

    @contextlib.contextmanager
    def _root(self) -> Iterator[OsRoot]:
        with open_layers(self._image, *self._layers) as disk:
            yield os_root(disk)


def _first_text(tree: Tree, paths: Iterable[str]) -> str | None:
    contents = (tree.read(path, _TEXT) for path in paths)
    return next((content.decode("utf-8", "replace") for content in contents if content is not None), None)


def _texts(tree: Tree, patterns: Iterable[str]) -> dict[str, str]:
    """The texts of the files that match one of the patterns, by path."""
    found = {str(path): tree.read(path, _TEXT) for pattern in patterns for path in tree.glob(pattern)}
    return {path: content.decode("utf-8", "replace") for path, content in found.items() if content is not None}


def read(image: Image, *layers: Path) -> OfflineTree:
    """Returns the files of the image, with those that a machine wrote above it: the layers of its disk, lowest first.

    Nobody may write to the layers.

    Raises:
        DiskDamaged: the disk contradicts itself.
        NotJudged: it cannot be read offline.
    """
    offline = OfflineTree(image, *layers)
    with offline.tree():
        return offline


class OfflineFiles(Files):
    """Programs, names, privileges and links read from the disk; everything else needs a shell.

    What is not found anywhere is not judged where a part of the disk cannot be read.
    """

    def __init__(self, shell: Shell, offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell)
        self._offline = offline

    @functools.cached_property
    def listed(self) -> dict[PurePosixPath, int]:
        """Every regular file of the system with its mode."""
        return {file.path: file.mode for file in self._offline().files}

    def holding(self, lines: Iterable[str]) -> list[str]:
        """Returns the small files, of at most 32 KiB, that have one of these as a whole line, sorted."""
        wanted = {line.encode() for line in lines}
        return self._found(lambda _, content: len(content) <= SMALL and not wanted.isdisjoint(split_lines(content)))

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """Returns the files whose name matches one of the shell's patterns, sorted."""
        wanted = list(patterns)
        return self._complete(str(path) for path in self.listed
                              if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in wanted))  # fmt: skip

    def setuid(self) -> list[str]:
        """Returns every regular file that gives privileges to its caller, sorted: setuid, setgid, or capabilities."""
        self._offline().require_all_read()
        return [str(file.path) for file in self._offline().files
                if file.mode & (stat.S_ISUID | stat.S_ISGID) or file.has_capabilities]  # fmt: skip

    def link_target(self, path: str) -> str:
        """Returns the path that this one leads to when every link is followed; the last part need not exist."""
        with self._offline().tree() as tree:
            return str(tree.real_path(path))

    def _programs(self, paths: Sequence[PurePosixPath]) -> list[str]:
        with self._offline().tree() as tree:
            return self._complete(str(path) for path in paths if self.listed[path] & formats.EXECUTABLE
                                  or formats.is_program(formats.FileHead.of(0, tree.read(path) or b"")))  # fmt: skip

    def _holding(self, marks: Iterable[str], test: Callable[[formats.FileHead], bool]) -> list[str]:
        sought = re.compile(b"|".join(re.escape(mark.encode()) for mark in marks))
        return self._found(lambda mode, content: sought.search(content) is not None
                           and test(formats.FileHead.of(mode, content)))  # fmt: skip

    def _found(self, test: Callable[[int, bytes], bool]) -> list[str]:
        """The files of which mode and content pass the test."""
        with self._offline().tree() as tree:
            return self._complete(str(path) for path, mode in self.listed.items() if test(mode, tree.read(path) or b""))

    def _complete(self, found: Iterable[str]) -> list[str]:
        paths = sorted(found)
        if not paths:
            self._offline().require_all_read()
        return paths


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
        with self._offline().tree() as tree:
            for path in (*self._databases, *packages.DPKG_DATABASES):
                if status := tree.read(path, _TEXT):
                    with readable(_file(path, status), expected="paragraphs with Package and Version (deb822(5))"):
                        return packages.parse_dpkg_status(status.decode("utf-8", "replace"))
            return rpm.packages(tree)


class OfflineUnits(units.Units):
    """Unit files read from the disk; their states need a shell."""

    def __init__(self, shell: Shell, offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell)
        self._offline = offline

    def named(self, pattern: str) -> list[str]:
        """Returns the unit files whose whole name matches, without those of generators and of /run."""
        with self._offline().tree() as tree:
            names = {name for path in _UNIT_PATHS for name in tree.names(path) if name.endswith(_UNIT_KINDS)}
        return units.named(sorted(names), pattern)


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
        with self._offline().tree() as tree:
            read = {file.path: tree.read(file.path, _TEXT) or b"" for file in self._offline().files
                    if _is_of_boot_loader(file.path)}  # fmt: skip
        unified = initramfs.unified((str(path), content[:initramfs.HEAD]) for path, content in read.items())
        if not unified and not any(map(initramfs.is_entry, read)):
            raise NotJudged("no boot entry can be read offline: there is none on an ext4 file system", Reason.IMAGE)
        texts = {path: content.decode("utf-8", "replace") for path, content in read.items() if b"\0" not in content}
        return [sign for path, text in texts.items() for sign in initramfs.parse_entry(str(path), text)] + unified


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
        with self._offline().tree() as tree:
            texts = _texts(tree, (f"{directory}/*.rules" for directory in system.UDEV_RULES))
        return [rule for text in texts.values() for rule in system.parse_udev_rules(text)]

    def has_posix_shell(self) -> bool:
        """Returns whether /bin/sh leads to an executable file; it is not run."""
        with self._offline().tree() as tree:
            shell = tree.find("/bin/sh")
        return shell is not None and shell.is_regular and bool(shell.inode.mode & formats.EXECUTABLE)


class OfflineAccounts(accounts.Accounts):
    """Passwords, PAM and the units that log in read from the disk; processes need a shell."""

    def __init__(self, shell: Shell, offline: Callable[[], OfflineTree]) -> None:
        super().__init__(shell)
        self._offline = offline

    def automatic_logins(self) -> list[str]:
        """Returns the unit files that log somebody in without a password, or start a shell on a terminal at boot."""
        units = self._texts(f"{place}/{name}" for place in _UNIT_PATHS for name in ("*.service", "*.service.d/*.conf"))
        with self._offline().tree() as tree:
            wanted = {path.name for place in _UNIT_PATHS for kind in ("wants", "requires")
                      for path in tree.glob(f"{place}/*.{kind}/*")}  # fmt: skip
        return sorted(path for path, text in units.items() if accounts.logs_in(text)
                      or (accounts.opens_shell(text) and PurePosixPath(path).name in wanted))  # fmt: skip

    def _texts(self, patterns: Iterable[str]) -> dict[str, str]:
        with self._offline().tree() as tree:
            return _texts(tree, patterns)


def _is_of_boot_loader(path: PurePosixPath) -> bool:
    """Whether a file is where boot loaders read, or on a partition that nothing mounts and has the name of an entry."""
    return str(path).startswith(tuple(f"{place}/" for place in initramfs.PLACES)) \
        or (path.parts[1].startswith("partition-") and initramfs.is_entry(path))


def _file(path: str, content: bytes) -> CommandResult:
    """A file of the disk as `cat` would print it in the guest."""
    return CommandResult(script=f"cat {path}", exit_status=0, output=content, errors=b"", duration=0.0)
