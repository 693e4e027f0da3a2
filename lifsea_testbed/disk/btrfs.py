"""btrfs on one device, read-only, as of its last commit (kernel include/uapi/linux/btrfs_tree.h)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lifsea_testbed.disk.btrfs_trees import Trees
from lifsea_testbed.disk.compression import unpacked
from lifsea_testbed.disk.inodes import PIECE, FileSystem, Inode
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import NotJudged, Reason

#: Types of items, of a tree of files and of the tree of roots.
_INODE, _ATTRIBUTE, _NAME, _NUMBERED_NAME, _CONTENT, _ROOT = 1, 24, 84, 96, 108, 132
#: The tree of the topmost subvolume, the directory in the tree of roots, and the first inode of a subvolume.
_TOP, _FIRST = 5, 256
_COMPRESSION = {0: "", 1: "zlib", 2: "lzo", 3: "zstd"}
_INLINE, _WRITTEN = 0, 1
#: The bits of an inode's number in its tree; those above are the tree's.
_BITS = 64
#: The most bytes of an extent that is compressed (BTRFS_MAX_UNCOMPRESSED), and of a content in a leaf.
_LARGEST_EXTENT, _LARGEST_INLINE = 128 << 10, 64 << 10


@dataclass(frozen=True, kw_only=True)
class BtrfsInode(Inode):
    """A file; its number has that of its subvolume above the lower 64 bits."""


class Btrfs(FileSystem[BtrfsInode]):
    """The file system on a partition; its topmost directory is that of the default subvolume.

    Raises:
        DiskDamaged: a structure is inconsistent.
        NotJudged: it has an unsupported feature, several devices, or a log of what was written since the last commit.
    """

    checker = "btrfs check --readonly"

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._trees = Trees(source)
        self._roots: dict[int, int] = {}
        self.root = self._default() << _BITS | _FIRST
        self.identifier = str(uuid.UUID(bytes=self._trees.identifier))
        self.label = self._trees.label

    def subvolume(self, options: Iterable[str]) -> int | None:
        """Returns the topmost directory of the subvolume that options of a mount name (btrfs(5): subvol=, subvolid=).

        That of the default one where they name none, None where there is no such subvolume.
        """
        values = dict(option.partition("=")[::2] for option in options)
        number = values.get("subvolid", "")
        if number.isdecimal() and len(number) < 20 and int(number):
            return int(number) << _BITS | _FIRST
        if not (path := values.get("subvol", "")):
            return self.root
        place = _TOP << _BITS | _FIRST
        for name in path.strip("/").split("/") if path.strip("/") else ():
            names = dict(self.entries(self.inode(place)))
            if name not in names:
                return None
            place = names[name]
        return place

    def inode(self, number: int) -> BtrfsInode:
        """Returns the inode with that number."""
        tree, own = number >> _BITS, number & (1 << _BITS) - 1
        for _, item in self._items(number, _INODE):
            if len(item) < 160:
                break
            size, user, group, mode = struct.unpack_from("<16xQ20xIII", item)
            return BtrfsInode(number=number, mode=mode, user=user, group=group, size=size)
        raise self.damaged(f"refers to inode {own} of tree {tree}, which is not there")

    def pieces(self, inode: BtrfsInode, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yields offset and content of the parts of a file between `start` and `end` that are no holes, in order."""
        end, behind = inode.size if end is None else min(end, inode.size), 0
        first = self._first_extent(inode.number, start) if start else 0
        for at, item in self._items(inode.number, _CONTENT, first):
            if at >= end:
                return
            if at < behind:
                raise self.damaged("maps some bytes of a file twice")
            for offset, content in self._extent(at, item, start, end):
                behind = offset + len(content)
                yield offset, content

    def attribute_values(self, inode: BtrfsInode) -> dict[str, bytes]:
        """Returns the values of a file's extended attributes by their names, sorted."""
        found = {name.decode("utf-8", "replace"): value for _, item in self._items(inode.number, _ATTRIBUTE)
                 for name, value, _ in self._named(item)}  # fmt: skip
        return dict(sorted(found.items()))

    def _target(self, inode: BtrfsInode) -> bytes:
        return self.read(inode)

    def _rows(self, directory: BtrfsInode) -> Iterator[tuple[bytes, int]]:
        tree = directory.number >> _BITS
        for _, item in self._items(directory.number, _NUMBERED_NAME):
            for name, _, (number, kind) in self._named(item):
                if kind == _ROOT:
                    yield name, number << _BITS | _FIRST
                elif number != 2:  # what a snapshot has in the place of a subvolume that it does not hold
                    yield name, tree << _BITS | number

    def _extent(self, at: int, item: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The parts of one extent of a file between `start` and `end`."""
        if len(item) < 21:
            raise self.damaged("has an extent that is cut short")
        length, compression, encryption, other, kind = struct.unpack_from("<8xQBBHB", item)
        if encryption or other or compression not in _COMPRESSION:
            raise NotJudged("btrfs has files that are encrypted, or stored in another way that is not read offline",
                            Reason.IMAGE)
        method = _COMPRESSION[compression]
        if kind == _INLINE:
            content = unpacked(method, item[21:], _LARGEST_INLINE) if method else item[21:]
            content = content[:length][:max(0, end - at)]
            if at + len(content) > start:
                yield max(at, start), content[max(0, start - at):]
            return
        if len(item) < 53:
            raise self.damaged("has an extent that is cut short")
        place, stored, skip, count = struct.unpack_from("<4Q", item, 21)
        if kind == _WRITTEN and place and at + count > start:
            yield from self._packed(at, place, stored, skip, min(count, end - at), length, method, start) if method \
                else self._plain(at, place + skip, max(start, at), min(at + count, end))  # fmt: skip

    def _plain(self, at: int, place: int, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        for offset in range(first, last, PIECE):
            yield offset, self._trees.read(place + offset - at, min(PIECE, last - offset))

    def _packed(self, at: int, place: int, stored: int, skip: int, count: int, length: int, method: str,
                start: int) -> Iterator[tuple[int, bytes]]:
        if stored > _LARGEST_EXTENT or length > _LARGEST_EXTENT:
            raise self.damaged(f"has a compressed extent of {length} bytes")
        content = unpacked(method, self._trees.read(place, stored), length)[skip:skip + count]
        if len(content) < count:
            raise self.damaged("has a compressed extent that is too short")
        yield max(at, start), content[max(0, start - at):]

    def _named(self, item: bytes) -> Iterator[tuple[bytes, bytes, tuple[int, int]]]:
        """Names of an item, each with a value and the object and type of the key that it leads to."""
        at = 0
        while at + 30 <= len(item):
            number, kind, size, length = struct.unpack_from("<QB16xHH", item, at)
            at += 30
            if at + length + size > len(item):
                raise self.damaged("has a name that is cut short")
            yield item[at:at + length], item[at + length:at + length + size], (number, kind)
            at += length + size

    def _first_extent(self, number: int, start: int) -> int:
        """Where an extent of a file begins that may reach to a byte: the largest are 128 MiB."""
        last = 0
        for at, _ in self._items(number, _CONTENT, max(0, start - (128 << 20))):
            if at > start:
                break
            last = at
        return last

    def _items(self, number: int, kind: int, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """The items of a type that belong to an inode, with the offset in their keys, in order."""
        tree, own = number >> _BITS, number & (1 << _BITS) - 1
        if tree not in self._roots:
            self._roots[tree] = self._root_of(tree)
        for key, item in self._trees.items(self._roots[tree], (own, kind, first), (own, kind, (1 << 64) - 1)):
            yield key[2], item

    def _root_of(self, tree: int) -> int:
        for _, item in self._trees.items(self._trees.root, (tree, _ROOT, 0), (tree, _ROOT, (1 << 64) - 1)):
            if len(item) >= 239:
                return int.from_bytes(item[176:184], "little")
        raise self.damaged(f"refers to tree {tree}, which is not there")

    def _default(self) -> int:
        """The subvolume that is mounted where none is named."""
        directory = self._trees.directory
        for _, item in self._trees.items(self._trees.root, (directory, _NAME, 0), (directory, _NAME, (1 << 64) - 1)):
            for name, _, (number, _) in self._named(item):
                if name == b"default" and number != 0:
                    return number
        return _TOP
