"""EROFS, read-only (kernel fs/erofs/erofs_fs.h): files without compression, in blocks, inodes or chunks."""

from __future__ import annotations

import functools
import itertools
import stat
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from lifsea_testbed.disk.inodes import PIECE, FileSystem, Inode
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import NotJudged, Reason

MAGIC, _SUPERBLOCK = 0xE0F5E1E2, 1024
#: What an inode's number counts (bytes), and what it has: 32 bytes, or 64.
_SLOT, _COMPACT, _EXTENDED = 32, 32, 64
_PLAIN, _FULL, _INLINE, _PACKED, _CHUNKS = range(5)
#: Chunks have rows of eight bytes in place of four; the place of a hole.
_INDEXED, _HOLE = 0x20, 0xFFFFFFFF
#: Incompatible features that matter to names and to files that are not compressed: chunks, other devices; compression
#: has bits that are ignored here (0x1, 0x2, 0x10), as its files are not read.
_CHUNKED, _OTHER_DEVICES, _LONG_PREFIXES = 0x4, 0x8, 0x40
_KNOWN = 0x1 | 0x2 | _CHUNKED | _OTHER_DEVICES | 0x10 | 0x20
_PREFIXES = {1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}
#: The most rows of chunks of a file.
_MOST_CHUNKS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ErofsInode(Inode):
    """A file: how its content is laid out, the value that says where, and the bytes of its inode and attributes."""

    layout: int
    place: int
    length: int
    attributes_size: int


class Erofs(FileSystem[ErofsInode]):
    """The file system on a partition.

    Raises:
        DiskDamaged: a structure is inconsistent.
        NotJudged: it has an unsupported feature.
    """

    checker = "fsck.erofs"

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source
        raw = source.read_at(_SUPERBLOCK, 128)
        bits, self.root = raw[12], int.from_bytes(raw[14:16], "little")
        self._blocks, meta, shared = struct.unpack_from("<III", raw, 36)
        self._features = int.from_bytes(raw[80:84], "little")
        if self._features & ~_KNOWN:
            raise NotJudged(f"EROFS has features that are not read offline (incompat {self._features & ~_KNOWN:#x})",
                            Reason.IMAGE)
        if not 9 <= bits <= 16 or raw[90]:
            raise self.damaged(f"has blocks of 2^{bits} bytes, directories' of 2^{raw[90]} times that")
        self._size = 1 << bits
        self._meta, self._shared = meta << bits, shared << bits
        self._block = functools.lru_cache(256)(self._read_block)
        self.identifier = str(uuid.UUID(bytes=raw[48:64]))
        self.label = raw[64:80].partition(b"\0")[0].decode("utf-8", "replace")

    def inode(self, number: int) -> ErofsInode:
        """Returns the inode with that number, which is its place in units of 32 bytes."""
        place = self._meta + number * _SLOT
        form, count, mode = struct.unpack("<3H", self._bytes(place, 6))
        extended, layout = form & 1, form >> 1 & 7
        if extended:
            size, at, user, group = struct.unpack("<QI4xII", self._bytes(place + 8, 24))
        else:
            size, at, user, group = struct.unpack("<I4xI4xHH", self._bytes(place + 8, 20))
        return ErofsInode(number=number, mode=mode, user=user, group=group, size=size, layout=layout, place=at,
                          length=_EXTENDED if extended else _COMPACT,
                          attributes_size=12 + 4 * (count - 1) if count else 0)  # fmt: skip

    def pieces(self, inode: ErofsInode, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yields offset and content of the parts of a file between `start` and `end` that are no holes, in order.

        Raises:
            NotJudged: the file is compressed, or lies on another device.
        """
        end = inode.size if end is None else min(end, inode.size)
        for at, place, length in self._runs(inode):
            first, last = max(start, at), min(end, at + length)
            for offset in range(first, last, PIECE):
                yield offset, self._source.read_at(place + offset - at, min(PIECE, last - offset))
            if at + length >= end:
                return

    def attribute_values(self, inode: ErofsInode) -> dict[str, bytes]:
        """Returns the values of a file's extended attributes by their names, sorted."""
        if not inode.attributes_size:
            return {}
        start = self._meta + inode.number * _SLOT + inode.length
        area = self._bytes(start, inode.attributes_size)
        shared = area[4]
        if 12 + 4 * shared > len(area):
            raise self.damaged("has more shared attributes than an inode has room for")
        places = struct.unpack_from(f"<{shared}I", area, 12)
        found = dict(self._attribute(self._bytes(self._shared + 4 * place, 4), self._shared + 4 * place)[0]
                     for place in places)  # fmt: skip
        at = 12 + 4 * shared
        while at + 4 <= len(area) and area[at:at + 4] != bytes(4):
            pair, length = self._attribute(area[at:at + 4], start + at)
            found.setdefault(*pair)
            at += length
        return dict(sorted(found.items()))

    def _target(self, inode: ErofsInode) -> bytes:
        return self.read(inode)

    def _rows(self, directory: ErofsInode) -> Iterator[tuple[bytes, int]]:
        content = self.read(directory)
        for start in range(0, len(content), self._size):
            yield from self._block_rows(content[start:start + self._size])

    def _block_rows(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        """A block has rows of 12 bytes, then the names; the first row says where names begin, and so how many it has.
        """
        first = int.from_bytes(block[8:10], "little")
        if len(block) < 12 or first % 12 or not 12 <= first <= len(block):
            raise self.damaged("has an inconsistent directory")
        places = [*(int.from_bytes(block[at + 8:at + 10], "little") for at in range(0, first, 12)), len(block)]
        for row, (begin, end) in enumerate(itertools.pairwise(places)):
            if not first <= begin <= end <= len(block):
                raise self.damaged("has an inconsistent directory")
            yield block[begin:end].partition(b"\0")[0], int.from_bytes(block[12 * row:12 * row + 8], "little")

    def _attribute(self, head: bytes, place: int) -> tuple[tuple[str, bytes], int]:
        """Name and value of an attribute, and the bytes that it takes, which are a multiple of four."""
        length, kind, size = struct.unpack("<BBH", head)
        content = self._bytes(place + 4, length + size)
        name = _PREFIXES.get(kind, f"{kind}:") + content[:length].decode("utf-8", "replace")
        return (name, content[length:]), 4 + length + size + 3 & ~3

    def _runs(self, inode: ErofsInode) -> Iterator[tuple[int, int, int]]:
        """Yields the parts of a file: where in it, where on the disk, how long."""
        behind = self._meta + inode.number * _SLOT + inode.length + inode.attributes_size
        if inode.layout == _PLAIN:
            yield 0, inode.place * self._size, inode.size
        elif inode.layout == _INLINE:
            whole = max(0, inode.size - 1) // self._size * self._size
            yield 0, inode.place * self._size, whole
            if behind % self._size + inode.size - whole > self._size:
                raise self.damaged(f"has the end of inode {inode.number} beyond its block")
            yield whole, behind, inode.size - whole
        elif inode.layout == _CHUNKS and stat.S_ISREG(inode.mode):
            yield from self._chunks(inode, behind)
        else:
            raise NotJudged("EROFS keeps files compressed; that is not read offline", Reason.IMAGE)

    def _chunks(self, inode: ErofsInode, behind: int) -> Iterator[tuple[int, int, int]]:
        size = self._size << (inode.place & 31)
        width = 8 if inode.place & _INDEXED else 4
        count = -(-inode.size // size)
        if count > _MOST_CHUNKS:
            raise self.damaged(f"has a file of {count} chunks")
        table = self._source.read_at(-(-behind // width) * width, count * width)
        for number in range(count):
            row = table[number * width:(number + 1) * width]
            if width == 8 and int.from_bytes(row[2:4], "little"):
                raise NotJudged("EROFS has files on another device; that is not read offline", Reason.IMAGE)
            place = int.from_bytes(row[-4:], "little")
            if place != _HOLE:
                yield number * size, place * self._size, min(size, inode.size - number * size)

    # Below are blocks.

    def _bytes(self, place: int, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            block, start = divmod(place + len(found), self._size)
            found += self._block(block)[start:start + length - len(found)]
        return bytes(found)

    def _read_block(self, number: int) -> bytes:
        return self._source.read_at(number * self._size, self._size)


def is_erofs(source: ByteSource) -> bool:
    """Returns whether a partition holds EROFS."""
    return source.size >= _SUPERBLOCK + 128 and source.read_at(_SUPERBLOCK, 4) == MAGIC.to_bytes(4, "little")
