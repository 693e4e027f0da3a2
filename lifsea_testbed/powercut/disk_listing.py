"""What lies on the disk of a broken state where a boot begins: as a boot loader sees it, and as the kernel does.

GRUB reads ext4 as it is, without the journal that the kernel replays when it mounts it: between the two lie the errors
of an upgrade that swaps its loader entries without having them written to their place (ostree issue 3392).
"""

from __future__ import annotations

from collections.abc import Iterator

from lifsea_testbed.disk.ext4 import Ext4, UnreplayedExt4, is_ext4
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.partitions import partitions
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.support.sanitize import printable

#: Where ostree keeps what boots, on a partition of its own for /boot or on the root file system.
_PATHS = ("/loader", "/loader/entries", "/ostree", "/boot/loader", "/boot/ostree")


def on_disk(disk: ByteSource) -> str:
    """Returns a listing of these places, both ways, a line each; what cannot be read is said there."""
    return "\n".join(printable(line) for line in _lines(disk))


def _lines(disk: ByteSource) -> Iterator[str]:
    try:
        found = [partition for partition in partitions(disk) if is_ext4(partition.content)]
    except (DiskDamaged, NotJudged) as error:
        yield _unread(error)
        return
    for partition in found:
        for view, kind in (("without its journal", UnreplayedExt4), ("with its journal", Ext4)):
            yield f"partition {partition.number} {view}:"
            yield from (f"  {line}" for line in _listing(partition.content, kind))


def _listing(content: ByteSource, kind: type[Ext4]) -> Iterator[str]:
    try:
        tree = Tree(root_of(kind(content)))
        yield from [line for path in _PATHS for line in _place(tree, path)] or ["nothing of ostree"]
    except (DiskDamaged, NotJudged) as error:
        yield _unread(error)


def _unread(error: Exception) -> str:
    return f"cannot be read: {str(error).partition(chr(10))[0]}"


def _place(tree: Tree, path: str) -> Iterator[str]:
    place = tree.find(path, follow=False)
    if place is not None and place.is_link:
        yield f"{path} -> {place.file_system.link_target(place.inode)}"
    if names := tree.names(path):
        yield f"{path}: {' '.join(names)}"
        yield from (line for name in names for line in _link(tree, f"{path}/{name}"))


def _link(tree: Tree, path: str) -> Iterator[str]:
    place = tree.find(path, follow=False)
    if place is not None and place.is_link:
        yield f"{path} -> {place.file_system.link_target(place.inode)}"
