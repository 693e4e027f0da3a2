"""Which file systems of a disk are mounted where: by fstab, by units of systemd, by the types of their partitions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from lifsea_testbed.disk.ext4 import Ext4
from lifsea_testbed.disk.filesystem import Tree
from lifsea_testbed.disk.partitions import Partition
from lifsea_testbed.support.lines import split_lines

#: systemd.unit(5), "System Unit Search Path", of which later directories go before earlier ones.
_UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/usr/local/lib/systemd/system", "/etc/systemd/system")
#: Where systemd-gpt-auto-generator(8) mounts partitions of these types (Discoverable Partitions Specification, x86-64).
_AUTOMATIC = {
    "8484680c-9521-48c6-9c11-b0720656f69e": "/usr", "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "/home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "/srv", "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "/var",
    "7ec6f557-3bc5-4aca-b293-16ef5df639d1": "/var/tmp", "bc13c2ff-59e6-4262-a352-b275fd6f7172": "/boot",
}  # fmt: skip
#: Names that count the partitions of a disk: those of the first disk of each driver, and links by path and identifier.
_NUMBERED = re.compile(r"/dev/(?:(?:[vsxh]|xv)da|(?:nvme0n1|mmcblk0)p|disk/by-(?:path|id|diskseq)/\S+-part)(\d+)")
_LINKED = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)")
_ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3}))")
_SMALL = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A partition with a supported file system, and its files."""

    partition: Partition
    file_system: Ext4
    tree: Tree


def mounted(root: Tree, volumes: Sequence[Volume]) -> dict[PurePosixPath, Volume]:
    """Returns the volumes that the system below that root mounts, by path; fstab goes before units, units before types.

    Names that no partition of the disk has are those of other disks: nothing of the image is mounted by them.
    """
    named = {name: volume for volume in volumes for name in _names(volume)}
    wanted = {_AUTOMATIC[volume.partition.kind]: volume for volume in volumes if volume.partition.kind in _AUTOMATIC}
    for what, where in (*_of_units(root), *_of_fstab(text(root, "/etc/fstab") or "")):
        if volume := named.get(_plain(what)):
            wanted[where] = volume
    return {PurePosixPath(where): volume for where, volume in wanted.items() if len(PurePosixPath(where).parts) > 1}


def text(tree: Tree, path: str | PurePosixPath) -> str | None:
    """Returns the text of a small file, or None if there is none."""
    content = tree.read(path, _SMALL)
    return None if content is None else content.decode("utf-8", "replace")


def _of_fstab(fstab: str) -> Iterator[tuple[str, str]]:
    for line in split_lines(fstab):
        fields = line.split()
        if len(fields) >= 2 and fields[1].startswith("/"):
            yield fields[0], _unescaped(fields[1])


def _of_units(root: Tree) -> Iterator[tuple[str, str]]:
    for path in (path for directory in _UNITS for path in root.glob(f"{directory}/*.mount")):
        fields = dict(line.strip().split("=", 1) for line in split_lines(text(root, path) or "") if "=" in line)
        if fields.get("Where", "").startswith("/"):
            yield fields.get("What", "").strip(), fields["Where"].strip()


def _plain(what: str) -> str:
    """A name in one form: KIND=VALUE for a link by that kind, a number for a device."""
    what = _unescaped(what.replace('"', ""))
    if link := _LINKED.fullmatch(what):
        what = f"{link[1].upper()}={link[2]}"
    if number := _NUMBERED.fullmatch(what):
        return number[1]
    kind, _, value = what.partition("=")
    return f"{kind.upper()}={value.lower() if kind.upper() in ('UUID', 'PARTUUID') else value}"


def _names(volume: Volume) -> list[str]:
    layout, partition = volume.file_system.layout, volume.partition
    values = {"UUID": layout.identifier, "PARTUUID": partition.identifier, "LABEL": layout.label,
              "PARTLABEL": partition.label}  # fmt: skip
    return [str(partition.number), *(f"{kind}={value}" for kind, value in values.items() if value)]


def _unescaped(name: str) -> str:
    """Replaces the escapes of fstab(5), in octal, and of udev's links, in hexadecimal digits."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16) if found[1] else int(found[2], 8)), name)
