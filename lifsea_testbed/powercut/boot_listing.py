"""A listing of what a boot loader finds on a disk: ostree's boot directories, with and without the journal."""

from __future__ import annotations

from collections.abc import Iterator

from lifsea_testbed.disk.ext4 import Ext4, UnreplayedExt4, is_ext4
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.partitions import partitions
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.support.sanitize import printable

#: The directories of ostree's boot entries and deployments, on a separate /boot or on the root file system.
_PATHS = ("/loader", "/loader/entries", "/ostree", "/boot/loader", "/boot/ostree")


def listing(disk: ByteSource) -> str:
    """Returns a listing of ostree's boot directories on each ext4 partition, without and with its journal."""
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
            yield from (f"  {line}" for line in _tree_lines(partition.content, kind))


def _tree_lines(content: ByteSource, kind: type[Ext4]) -> Iterator[str]:
    try:
        tree = Tree(root_of(kind(content)))
        yield from [line for path in _PATHS for line in _path_lines(tree, path)] or ["nothing of ostree"]
    except (DiskDamaged, NotJudged) as error:
        yield _unread(error)


def _unread(error: Exception) -> str:
    return f"cannot be read: {str(error).partition(chr(10))[0]}"


def _path_lines(tree: Tree, path: str) -> Iterator[str]:
    yield from _link_line(tree, path)
    if names := tree.names(path):
        yield f"{path}: {' '.join(names)}"
        yield from (line for name in names for line in _link_line(tree, f"{path}/{name}"))


def _link_line(tree: Tree, path: str) -> Iterator[str]:
    place = tree.find(path, follow=False)
    if place is not None and place.is_link:
        yield f"{path} -> {place.file_system.link_target(place.inode)}"
