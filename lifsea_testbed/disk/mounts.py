"""Which file systems of a disk are mounted where: by fstab, by units of systemd, by the types of their partitions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lifsea_testbed.disk.btrfs import Btrfs
from lifsea_testbed.disk.filesystem import Tree, TreeEntry, entry_of, root_of
from lifsea_testbed.disk.inodes import FileSystem
from lifsea_testbed.disk.partitions import ESP, XBOOTLDR, Partition
from lifsea_testbed.support.lines import split_lines

#: systemd.unit(5), "System Unit Search Path", of which later directories go before earlier ones.
_UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/usr/local/lib/systemd/system", "/etc/systemd/system")
#: Where systemd-gpt-auto-generator(8) mounts partitions of these types (Discoverable Partitions Specification, x86-64).
_AUTOMATIC = {
    "8484680c-9521-48c6-9c11-b0720656f69e": "/usr", "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "/home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "/srv", "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "/var",
    "7ec6f557-3bc5-4aca-b293-16ef5df639d1": "/var/tmp", XBOOTLDR: "/boot",
}  # fmt: skip
#: Names that count the partitions of a disk: those of the first disk of each driver, and links by path and identifier.
_NUMBERED = re.compile(r"/dev/(?:(?:[vsxh]|xv)da|(?:nvme0n1|mmcblk0)p|disk/by-(?:path|id|diskseq)/\S+-part)(\d+)")
_LINKED = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)")
_ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3}))")
_SMALL = 1 << 20
#: Options of mounts that a boot does without; types that hold no files of a disk.
_OPTIONAL, _NO_FILES = {"nofail", "noauto"}, {"swap", "tmpfs", "none"}


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A partition with a supported file system, and its files."""

    partition: Partition
    file_system: FileSystem[Any]
    tree: Tree


@dataclass(frozen=True, kw_only=True)
class Mounts:
    """What a system mounts: directories by path, the volumes of them, and in words what cannot be found on the disk."""

    places: dict[PurePosixPath, TreeEntry]
    volumes: tuple[Volume, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A mount that a system is configured to make: a device or another source, a path, a type, and options."""

    what: str
    where: str
    kind: str
    options: frozenset[str]


def mounted(root: Tree, volumes: Sequence[Volume]) -> Mounts:
    """Returns what the system below that root mounts; fstab goes before units, units before types of partitions.

    A mount is missing that it makes at each boot from a device which is not on the disk, or as an overlay.
    """
    names = named(volumes)
    found = {where: (volume, root_of(volume.file_system)) for volume in volumes
             if (where := _automatic(root, volume, volumes))}  # fmt: skip
    missing: dict[str, str] = {}
    for wanted in (*_of_units(root), *_of_fstab(text(root, "/etc/fstab") or "")):
        missing.pop(wanted.where, None)
        volume = names.get(normal_name(wanted.what))
        if len(PurePosixPath(wanted.where).parts) < 2:
            continue
        if volume and (place := directory(volume, wanted.options)):
            found[wanted.where] = volume, place
        elif reason := _missing(wanted):
            missing[wanted.where] = reason
    return Mounts(places={PurePosixPath(where): place for where, (_, place) in found.items()},
                  volumes=tuple(volume for volume, _ in found.values()), missing=tuple(missing.values()))  # fmt: skip


def directory(volume: Volume, options: Iterable[str]) -> TreeEntry | None:
    """Returns the directory of a volume that a mount with those options shows: of btrfs that of a subvolume."""
    system = volume.file_system
    number = system.subvolume(options) if isinstance(system, Btrfs) else system.root
    return None if number is None else entry_of(system, number)


def named(volumes: Sequence[Volume]) -> dict[str, Volume]:
    """Returns the volumes by each of their names in the form of `normal_name`."""
    return {name: volume for volume in reversed(volumes) for name in _names(volume)}


def _automatic(root: Tree, volume: Volume, volumes: Sequence[Volume]) -> str:
    """Where a volume is mounted for its type; an ESP at /efi, or at an empty /boot that no XBOOTLDR is for."""
    if volume.partition.kind != ESP:
        return _AUTOMATIC.get(volume.partition.kind, "")
    if root.find("/efi"):
        return "/efi"
    is_free = all(other.partition.kind != XBOOTLDR for other in volumes) and root.find("/boot") \
        and not root.names("/boot")  # fmt: skip
    return "/boot" if is_free else ""


def _missing(wanted: _Wanted) -> str:
    """Why a mount is not found on the disk; nothing where it is none of a file system on a disk, or need not be there.
    """
    if wanted.options & _OPTIONAL:
        return ""
    if wanted.kind == "overlay":
        return f"an overlay is mounted on {wanted.where}"
    is_device = wanted.what.startswith("/dev/") or "=" in wanted.what
    return f"{wanted.what} is mounted on {wanted.where}, and is not on this disk" \
        if is_device and wanted.kind not in _NO_FILES else ""  # fmt: skip


def text(tree: Tree, path: str | PurePosixPath) -> str | None:
    """Returns the text of a small file, or None if there is none."""
    content = tree.read(path, _SMALL)
    return None if content is None else content.decode("utf-8", "replace")


def _of_fstab(fstab: str) -> Iterator[_Wanted]:
    for line in split_lines(fstab):
        fields = line.split()
        if len(fields) >= 2 and fields[1].startswith("/"):
            kind, options = (*fields[2:4], "", "")[:2]
            yield _Wanted(what=fields[0], where=_unescaped(fields[1]), kind=kind, options=frozenset(options.split(",")))


def _of_units(root: Tree) -> Iterator[_Wanted]:
    """The mounts of units; one that nothing pulls in need not be made."""
    pulled_in = {path.name for directory in _UNITS for kind in ("wants", "requires")
                 for path in root.glob(f"{directory}/*.{kind}/*.mount")}  # fmt: skip
    for path in (path for directory in _UNITS for path in root.glob(f"{directory}/*.mount")):
        fields = dict(line.strip().split("=", 1) for line in split_lines(text(root, path) or "") if "=" in line)
        if fields.get("Where", "").startswith("/"):
            options = {*fields.get("Options", "").split(","), *([] if path.name in pulled_in else ["noauto"])}
            yield _Wanted(what=fields.get("What", "").strip(), where=fields["Where"].strip(),
                          kind=fields.get("Type", "").strip(), options=frozenset(options))  # fmt: skip


def normal_name(what: str) -> str:
    """Returns the name of a device in one form: KIND=VALUE for a link by that kind, a number for a device."""
    what = _unescaped(what.replace('"', ""))
    if link := _LINKED.fullmatch(what):
        what = f"{link[1].upper()}={link[2]}"
    if number := _NUMBERED.fullmatch(what):
        return number[1]
    kind, _, value = what.partition("=")
    return f"{kind.upper()}={value.lower() if kind.upper() in ('UUID', 'PARTUUID') else value}"


def _names(volume: Volume) -> list[str]:
    system, partition = volume.file_system, volume.partition
    values = {"UUID": system.identifier, "PARTUUID": partition.identifier, "LABEL": system.label,
              "PARTLABEL": partition.label}  # fmt: skip
    return [str(partition.number), *(f"{kind}={value}" for kind, value in values.items() if value)]


def _unescaped(name: str) -> str:
    """Replaces the escapes of fstab(5), in octal, and of udev's links, in hexadecimal digits."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16) if found[1] else int(found[2], 8)), name)
