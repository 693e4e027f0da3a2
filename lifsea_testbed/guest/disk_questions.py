"""What a disk can answer for without a machine: questions to a confined reader, answered by its own process.

`opened` and the questions run in that process; OfflineTree and its neighbours ask them.
"""

from __future__ import annotations

import fnmatch
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from lifsea_testbed.disk import boot_entries, pe
from lifsea_testbed.disk.boot_loaders import boot_loaders
from lifsea_testbed.disk.filesystem import Tree, TreeEntry
from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason
from lifsea_testbed.guest import (
    accounts,
    bus_policy,
    capabilities,
    formats,
    initramfs,
    ostree_objects,
    packages,
    pam,
    rpm,
    system,
    units,
)
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.guest.files import SMALL
from lifsea_testbed.guest.open_disk import OpenDisk, SearchBudget
from lifsea_testbed.support.firmware import BootLoaders
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import CommandResult
from lifsea_testbed.support.questions import question

#: systemd.unit(5), "System Unit Search Path", without the directories that are filled anew at each boot.
_UNIT_PATHS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
               "/lib/systemd/system")  # fmt: skip
_UNIT_KINDS = (".service", ".socket", ".device", ".mount", ".automount", ".swap", ".target", ".path", ".timer",
               ".slice", ".scope")  # fmt: skip
SYSTEM_RELEASE = "/etc/system-release"
#: The largest file that states a release (bytes).
_RELEASE_SIZE = 64 << 10
#: The largest database of dpkg (bytes): a full distribution's has 5 MB.
_DPKG_SIZE = 32 << 20
#: The largest file of text in a boot loader's directory (bytes): a kernel's System.map has 5 MB.
_BOOT_TEXT_SIZE = 16 << 20
#: A file of a module, compressed or not; `-` in its name is `_` in the module's (kmod).
_MODULE = re.compile(r"\.ko(?:\.\w+)?$")
#: The largest part of a file that one answer holds (bytes).
PART = 4 << 20


@dataclass(frozen=True, kw_only=True)
class ReleaseFiles:
    """The fields of os-release, the text of system-release, the marker files that exist, and where a system lies.

    `partition` is the number of the one that was read, `others` those of partitions with another system.
    """

    os_release: dict[str, str]
    system_release: str
    files: frozenset[str]
    partition: int
    others: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FileSize:
    """A regular file: its path without links, and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class KernelEntry:
    """The boot entry that comes first: its kernel, and the options of its command line."""

    kernel: FileSize
    options: tuple[str, ...]


def opened(arguments: Sequence[str]) -> OpenDisk:
    """Returns the disk of that format in the files with those descriptors, the image first."""
    form, *descriptors = arguments
    return OpenDisk(form, [int(number) for number in descriptors])


# The system and its release


@question("its partitions and file systems")
def require_root(disk: OpenDisk) -> None:
    """Makes sure that the disk has a root file system that can be read."""
    _ = disk.root


@question("its release files")
def release(disk: OpenDisk, markers: list[str]) -> ReleaseFiles:
    """Returns what the release files state, and which of those files exist."""
    text = _first_text(disk.tree, system.OS_RELEASE) or ""
    return ReleaseFiles(
        os_release=system.parse_os_release(text), system_release=_first_text(disk.tree, [SYSTEM_RELEASE]) or "",
        files=frozenset(path for path in markers if disk.tree.find(path)),
        partition=disk.root.partition, others=disk.root.others,
    )  # fmt: skip


@question("os-release")
def os_release(disk: OpenDisk) -> dict[str, str]:
    """Returns the fields of os-release(5), unquoted."""
    text = _first_text(disk.tree, system.OS_RELEASE)
    if text is None:
        raise NotJudged(f"the image has no {', no '.join(system.OS_RELEASE)}", Reason.IMAGE)
    return system.parse_os_release(text)


@question("its udev rules")
def udev_rules(disk: OpenDisk) -> list[str]:
    """Returns the rules of all udev files."""
    texts = disk.texts(f"{directory}/*.rules" for directory in system.UDEV_RULES)
    return [rule for text in texts.values() for rule in system.parse_udev_rules(text)]


@question("its shell")
def has_posix_shell(disk: OpenDisk) -> bool:
    """Returns whether /bin/sh leads to an executable file."""
    shell = disk.tree.find("/bin/sh")
    return shell is not None and shell.is_regular and bool(shell.inode.mode & formats.EXECUTABLE)


# Files


@question("the names of its files")
def executables_named(disk: OpenDisk, patterns: list[str]) -> list[str]:
    """Returns the programs whose whole file name matches one of the regular expressions, sorted."""
    expression = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    return disk.complete(str(path) for path, file in disk.listed.items()
                         if expression.fullmatch(path.name) and _is_program(file))  # fmt: skip


@question("the names of its files")
def matching(disk: OpenDisk, patterns: list[str]) -> list[str]:
    """Returns the files whose name matches one of the shell's patterns, sorted."""
    return disk.complete(str(path) for path in disk.listed
                         if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns))  # fmt: skip


@question("the content of its files")
def executables_holding(disk: OpenDisk, marks: list[str]) -> list[str]:
    """Returns the programs, libraries, archives and disk images in which one of the marks occurs, sorted."""
    return _holding(disk, marks, formats.holds_programs)


@question("the content of its files")
def programs_holding(disk: OpenDisk, marks: list[str]) -> list[str]:
    """Returns the programs and libraries in which one of the marks occurs, sorted."""
    return _holding(disk, marks, formats.is_program)


@question("the content of its files")
def holding(disk: OpenDisk, lines: list[str]) -> list[str]:
    """Returns the files of at most SMALL bytes that have one of these as a whole line, sorted."""
    wanted = {line.encode() for line in lines}
    small = ((path, file) for path, file in disk.listed.items() if file.inode.size <= SMALL)
    return disk.complete(str(path) for path, file in small
                         if not wanted.isdisjoint(split_lines(file.read(SMALL))))  # fmt: skip


@question("the modes of its files")
def setuid(disk: OpenDisk) -> list[str]:
    """Returns every regular file that gives privileges to its caller, sorted: setuid, setgid, or capabilities."""
    disk.require_all_read()
    return [str(path) for path, file in disk.listed.items() if file.inode.mode & (stat.S_ISUID | stat.S_ISGID)
            or capabilities.ATTRIBUTE in file.file_system.attributes(file.inode)]  # fmt: skip


@question("a path")
def link_target(disk: OpenDisk, path: str) -> str:
    """Returns the path that this one leads to when every link is followed; the last part need not exist."""
    return str(disk.tree.real_path(path))


@question("its ostree repository")
def changed_files(disk: OpenDisk) -> list[str]:
    """Returns the files below /usr that are not those of the deployed commit, as `ostree diff` names them."""
    return ostree_objects.changed_files(disk.tree)


# Packages, units, accounts


@question("its package database")
def installed(disk: OpenDisk, databases: list[str]) -> list[packages.Package]:
    """Returns the installed packages, sorted, from the first database that exists: dpkg's, or else rpm's."""
    for path in (*databases, *packages.DPKG_DATABASES):
        if status := disk.tree.read(path, _DPKG_SIZE):
            with readable(_file(path, status), expected="paragraphs with Package and Version (deb822(5))"):
                return packages.parse_dpkg_status(status.decode("utf-8", "replace"))
    return rpm.packages(disk.tree)


@question("its units")
def units_named(disk: OpenDisk, pattern: str) -> list[str]:
    """Returns the unit files whose whole name matches the regular expression."""
    names = {name for path in _UNIT_PATHS for name in disk.tree.names(path) if name.endswith(_UNIT_KINDS)}
    return units.named(sorted(names), pattern)


@question("the policy of its system bus")
def bus_name_grants(disk: OpenDisk, name: str) -> list[str]:
    """Returns the files of the policy of the system bus that may let a program own that name, sorted."""
    texts = disk.texts(bus_policy.FILES)
    if not texts:
        disk.require_all_read()
        raise NotJudged(f"the disk has no policy of a system bus: {', '.join(bus_policy.FILES)}", Reason.IMAGE)
    return sorted(path for path, text in texts.items() if bus_policy.parse_grants(name, text))


@question("its accounts")
def with_password(disk: OpenDisk) -> list[str]:
    """Returns the accounts that a password opens, or none is needed for, and groups with a password, sorted."""
    return accounts.opened(disk.texts)


@question("its configuration of PAM")
def without_password(disk: OpenDisk) -> list[str]:
    """Returns the services of PAM that let in whoever gives a wrong password, each with the module that does."""
    return pam.admitting(disk.texts(f"{directory}/*" for directory in pam.DIRECTORIES))


@question("its units")
def automatic_logins(disk: OpenDisk) -> list[str]:
    """Returns the unit files that log somebody in without a password, or start a shell on a terminal at boot."""
    texts = disk.texts(f"{place}/{name}" for place in _UNIT_PATHS for name in ("*.service", "*.service.d/*.conf"))
    wanted = {path.name for place in _UNIT_PATHS for kind in ("wants", "requires")
              for path in disk.tree.glob(f"{place}/*.{kind}/*")}  # fmt: skip
    return sorted(path for path, text in texts.items() if accounts.logs_in(text)
                  or (accounts.opens_shell(text) and PurePosixPath(path).name in wanted))  # fmt: skip


# What boots


@question("its boot loaders")
def loaders(disk: OpenDisk) -> BootLoaders:
    """Returns what the disk has for a BIOS and for UEFI to boot."""
    return boot_loaders(disk.content)


@question("the files of its boot loader")
def initramfs_signs(disk: OpenDisk) -> list[str]:
    """Returns the boot entries and unified kernel images that load an initramfs."""
    found = {path: file for path, file in disk.listed.items() if _is_of_boot_loader(path)}
    heads = {path: place.part(0, pe.HEAD) for path, place in found.items()}
    unified = initramfs.unified((str(path), head) for path, head in heads.items())
    if not unified and not any(map(initramfs.is_entry, found)) \
            and all(".linux" not in pe.sections(head) for head in heads.values()):  # fmt: skip
        raise NotJudged("no boot entry can be read offline: there is none on a file system that is read", Reason.IMAGE)
    return [sign for path, place in found.items() if b"\0" not in heads[path]
            for sign in initramfs.parse_entry(str(path), _text_of(place))] + unified  # fmt: skip


@question("the names of its files")
def modules(disk: OpenDisk, prefixes: list[str]) -> list[str]:
    """Returns the modules of the kernel whose name starts with one of those, sorted by path."""
    return disk.complete(str(path) for path in disk.listed
                         if _MODULE.search(path.name) and path.name.replace("-", "_").startswith(tuple(prefixes)))


@question("its boot entries")
def first_entry(disk: OpenDisk) -> KernelEntry:
    """Returns the kernel and the options of the boot entry that comes first."""
    texts = disk.texts(["/boot/loader/entries/*.conf"])
    entry = boot_entries.first(boot_entries.parse_entry(PurePosixPath(path).name, text)
                               for path, text in texts.items())  # fmt: skip
    if entry is None:
        raise NotJudged("the image has no boot entry below /boot/loader/entries to take a kernel from", Reason.IMAGE)
    path = entry.linux
    kernel = _size(disk, f"/boot/{path.lstrip('/').removeprefix('boot/')}") if path else None
    if kernel is None:
        raise NotJudged(f"the boot entry names the kernel {path!r}, which is not there", Reason.IMAGE)
    return KernelEntry(kernel=kernel, options=entry.options)


@question("its journal")
def journal_files(disk: OpenDisk) -> list[FileSize]:
    """Returns the files of the system's journal, sorted by path."""
    paths = disk.tree.glob("/var/log/journal/*/system*.journal")
    return [file for path in paths if (file := _size(disk, path))]


@question("a file")
def part(disk: OpenDisk, path: str, offset: int, length: int) -> bytes:
    """Returns at most PART bytes of a regular file, fewer where it ends."""
    place = disk.tree.find(path)
    if place is None or not place.is_regular:
        raise DiskDamaged(f"{path} is gone")
    return place.part(offset, min(length, PART))


def _size(disk: OpenDisk, path: str | PurePosixPath) -> FileSize | None:
    real = disk.tree.real_path(path)
    place = disk.tree.find(real)
    return FileSize(path=str(real), size=place.inode.size) if place and place.is_regular else None


def _first_text(tree: Tree, paths: Iterable[str]) -> str | None:
    contents = (tree.read(path, _RELEASE_SIZE) for path in paths)
    return next((content.decode("utf-8", "replace") for content in contents if content is not None), None)


def _text_of(place: TreeEntry) -> str:
    """The text of a file of the boot loader; nothing where it is none."""
    content = place.read(_BOOT_TEXT_SIZE)
    return "" if b"\0" in content else content.decode("utf-8", "replace")


def _is_program(file: TreeEntry) -> bool:
    return bool(file.inode.mode & formats.EXECUTABLE) or formats.is_program(formats.FileHead.of(0, _head(file)))


def _head(place: TreeEntry) -> bytes:
    return place.part(0, max(start + size for start, size in formats.PIECES))


def _holding(disk: OpenDisk, marks: Sequence[str], test: Callable[[formats.FileHead], bool]) -> list[str]:
    """The files in whose content one of the marks occurs and whose head passes the test; each is searched once."""
    sought = [mark.encode() for mark in marks]  # one by one: a regular expression of them all takes five times as long
    longest = max(map(len, sought), default=1)
    budget, known = SearchBudget(), dict[tuple[int, int], bool]()
    found = []
    for path, file in disk.listed.items():
        inode = id(file.file_system), file.inode.number
        if inode not in known:
            known[inode] = test(formats.FileHead.of(file.inode.mode, _head(file))) \
                and any(mark in window for window in budget.windows(path, file, longest) for mark in sought)
        if known[inode]:
            found.append(str(path))
    return disk.complete(found)


def _is_of_boot_loader(path: PurePosixPath) -> bool:
    """Whether a file is where boot loaders read, or on a partition that nothing mounts and named as an entry is."""
    return str(path).startswith(tuple(f"{place}/" for place in initramfs.PLACES)) \
        or (path.parts[1].startswith("partition-") and (initramfs.is_entry(path) or path.suffix.lower() == ".efi"))


def _file(path: str, content: bytes) -> CommandResult:
    """A file of the disk as `cat` would print it in the guest."""
    return CommandResult(script=f"cat {path}", exit_status=0, output=content, errors=b"", duration=0.0)
