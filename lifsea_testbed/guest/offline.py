"""The content of an image read from its disk: the answers of a machine that offers no shell, or does not run."""

from __future__ import annotations

import contextlib
import functools
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lifsea_testbed.disk.filesystem import Tree
from lifsea_testbed.disk.image import Image
from lifsea_testbed.disk.os_root import boots_next
from lifsea_testbed.disk.qcow2 import open_layers
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest import accounts, files, kernel, packages, rpm, system, units

#: What a running system has file systems of the kernel, or memory, mounted over.
_HIDDEN = ("/proc", "/sys", "/dev", "/run")
#: systemd.unit(5), "System Unit Search Path", without what is made anew at each boot.
_UNIT_PATHS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
               "/lib/systemd/system")  # fmt: skip
_UNIT_KINDS = (".service", ".socket", ".device", ".mount", ".automount", ".swap", ".target", ".path", ".timer",
               ".slice", ".scope")  # fmt: skip
_TEXT = 64 << 20


@dataclass(frozen=True, kw_only=True)
class File:
    """A regular file: its path and its mode as in stat(2)."""

    path: PurePosixPath
    mode: int


class OfflineTree:
    """The files of the system that boots next from an image, with the answers that the running system would give.

    Nothing is open between questions. Every question raises DiskDamaged where the disk contradicts itself, and
    NotJudged where it holds what is not read offline.
    """

    def __init__(self, image: Image, overlay: Path | None = None) -> None:
        self._image, self._overlay = image, overlay

    @contextlib.contextmanager
    def tree(self) -> Iterator[Tree]:
        """Yields the files themselves."""
        with open_layers(self._image, *([self._overlay] if self._overlay else [])) as disk:
            yield boots_next(disk)

    def os_release(self) -> dict[str, str]:
        """Returns the fields of os-release(5), unquoted."""
        return system.parse_os_release(self._text("/etc/os-release"))

    def has_posix_shell(self) -> bool:
        """Tells whether /bin/sh leads to an executable file; none is run."""
        with self.tree() as tree:
            shell = tree.find("/bin/sh")
        return shell is not None and shell.is_regular and bool(shell.inode.mode & 0o111)

    def packages(self, databases: Iterable[str] = ()) -> list[packages.Package]:
        """Returns the installed packages, sorted, from the first database that exists: dpkg's, or else rpm's.

        Raises:
            NotJudged: the image carries no database that can be read.
        """
        with self.tree() as tree:
            for path in (*databases, *packages.DPKG_DATABASES):
                if status := tree.read(path, _TEXT):
                    return packages.parse_dpkg_status(status.decode("utf-8", "replace"))
            return rpm.packages(tree)

    def executables(self) -> list[PurePosixPath]:
        """Returns every executable regular file of the system, sorted."""
        return [file.path for file in self._files if file.mode & 0o111]

    def executables_holding(self, marks: Iterable[str]) -> list[str]:
        """Returns the executables in whose content one of the marks occurs, sorted."""
        sought = re.compile(b"|".join(re.escape(mark.encode()) for mark in marks))
        with self.tree() as tree:
            return [str(path) for path in self.executables() if sought.search(tree.read(path) or b"")]

    def setuid_files(self) -> list[PurePosixPath]:
        """Returns every regular file that is setuid or setgid, sorted; capabilities are not read offline."""
        return [file.path for file in self._files if file.mode & (stat.S_ISUID | stat.S_ISGID)]

    def link_target(self, path: str) -> str:
        """Returns the path that this one leads to when every link is followed; the last part need not exist."""
        with self.tree() as tree:
            return str(tree.real_path(path))

    def units_named(self, pattern: str) -> list[str]:
        """Returns the unit files whose whole name matches, those of generators and of /run left out."""
        with self.tree() as tree:
            names = {name for path in _UNIT_PATHS for name in tree.names(path) if name.endswith(_UNIT_KINDS)}
        return units.named(sorted(names), pattern)

    def initramfs_signs(self) -> list[str]:
        """Returns the boot entries that load an initramfs; what the kernel said is not on the disk.

        Raises:
            NotJudged: there is no boot entry that can be read.
        """
        with self.tree() as tree:
            paths = [path for pattern in kernel.BOOT_ENTRIES for path in tree.glob(f"/boot/{pattern}")]
            entries = [(path, content) for path in paths if (content := tree.read(path, _TEXT)) is not None]
        if not entries:
            raise NotJudged("no boot entry can be read offline: there is none on an ext4 file system")
        named = ((str(path.relative_to("/boot")), content.decode("utf-8", "replace")) for path, content in entries)
        return [sign for name, text in named for sign in kernel.parse_boot_entry(name, text)]

    def accounts_with_password(self) -> list[str]:
        """Returns the accounts whose password field is empty or holds a hash."""
        return accounts.parse_shadow(self._text("/etc/shadow"))

    @functools.cached_property
    def _files(self) -> list[File]:
        without = {PurePosixPath(path) for path in (*files.NOT_OF_THE_SYSTEM, *_HIDDEN)}
        with self.tree() as tree:
            found = [File(path=path, mode=place.inode.mode) for path, place in tree.walk(without) if place.is_regular]
        return sorted(found, key=lambda file: file.path)

    def _text(self, path: str) -> str:
        with self.tree() as tree:
            content = tree.read(path, _TEXT)
        if content is None:
            raise NotJudged(f"the image has no {path}")
        return content.decode("utf-8", "replace")


def read(image: Image, overlay: Path | None = None) -> OfflineTree:
    """Returns what the image holds, with what a machine wrote above it; that machine must be powered off.

    Raises:
        DiskDamaged: the disk contradicts itself.
        NotJudged: it cannot be read offline.
    """
    offline = OfflineTree(image, overlay)
    with offline.tree():
        return offline
