"""XFS, read-only, of version 4 and 5 (XFS Algorithms & Data Structures; kernel fs/xfs/libxfs/xfs_format.h)."""

from __future__ import annotations

import functools
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from lifsea_testbed.disk import xfs_attributes, xfs_log
from lifsea_testbed.disk.inodes import PIECE, FileSystem, Inode
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import NotJudged, Reason

MAGIC = b"XFSB"
#: Supported incompatible features: ftype, sparse inodes, meta_uuid, bigtime, 64-bit counts of extents, exchange of
#: ranges, parent pointers; the feature of version 4 that directories tell types of files; the flag of a wide count.
_KNOWN, _TYPES_4, _WIDE_COUNTS = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80, 0x200, 0x10
_LOCAL, _EXTENTS, _TREE = 1, 2, 3
_REALTIME = 0x1
#: Where the part of a directory ends that holds names, and its hashes begin (XFS_DIR2_LEAF_OFFSET, bytes).
_NAMES_END = 1 << 35
_FREE_TAG = 0xFFFF
_DEEPEST = 9
_LINK, _LINK_HEADER = b"XSLM", 56


@dataclass(frozen=True, kw_only=True)
class XfsFork:
    """A fork of an inode, of its content or its attributes: `kind` is its format, `raw` what the inode holds of it."""

    kind: int
    raw: bytes
    count: int


@dataclass(frozen=True, kw_only=True)
class XfsInode(Inode):
    """A file, with its forks and flags."""

    data: XfsFork
    attributes: XfsFork
    flags: int


class Xfs(FileSystem[XfsInode]):
    """The file system on a partition.

    Raises:
        DiskDamaged: a structure is inconsistent.
        NotJudged: it has an unsupported feature, or its log holds what is not in its place yet.
    """

    checker = "xfs_repair -n"

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source
        raw = source.read_at(0, 512)
        self.block_size = int.from_bytes(raw[4:8], "big")
        log, self.root = struct.unpack_from(">QQ", raw, 48)
        self._group_blocks = int.from_bytes(raw[84:88], "big")
        log_blocks, version = struct.unpack_from(">IH", raw, 96)
        self._inode_size = int.from_bytes(raw[104:106], "big")
        self._block_bits, self._inodes_bits, self._group_bits = raw[120], raw[123], raw[124]
        self._directory_size = self.block_size << raw[192]
        self.version = version & 15
        self._require(raw)
        self._block = functools.lru_cache(256)(self._read_block)
        self.identifier = str(uuid.UUID(bytes=raw[32:48]))
        self.label = raw[108:120].rstrip(b"\0").decode("utf-8", "replace")
        if not log:
            raise NotJudged("the log of XFS lies on another device", Reason.IMAGE)
        xfs_log.require_clean(source, self.block_place(log), log_blocks * self.block_size)

    def inode(self, number: int) -> XfsInode:
        """Returns the inode with that number."""
        per_group = self._group_bits + self._inodes_bits
        group, block = number >> per_group, number >> self._inodes_bits & (1 << self._group_bits) - 1
        place = (group * self._group_blocks + block) * self.block_size
        raw = self._source.read_at(place + (number & (1 << self._inodes_bits) - 1) * self._inode_size,
                                   self._inode_size)  # fmt: skip
        magic, mode, version, form = struct.unpack_from(">2sHBB", raw)
        if magic != b"IN":
            raise self.damaged(f"refers to inode {number}, which is none")
        user, group_id, size = struct.unpack_from(">II40xQ", raw, 8)
        start, split = 176 if version == 3 else 100, raw[82] * 8
        count, attributes = self._counts(raw, version)
        area = raw[start:]
        return XfsInode(number=number, mode=mode, user=user, group=group_id, size=size, flags=raw[91] | raw[90] << 8,
                        data=XfsFork(kind=form, raw=area[:split] if split else area, count=count),
                        attributes=XfsFork(kind=raw[83] if split else 0, raw=area[split:] if split else b"",
                                           count=attributes))  # fmt: skip

    def pieces(self, inode: XfsInode, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yields offset and content of the parts of a file between `start` and `end` that are no holes, in order.

        Raises:
            NotJudged: the file lies on a realtime device.
        """
        if inode.flags & _REALTIME:
            raise NotJudged("XFS has files on a realtime device", Reason.IMAGE)
        end, size = inode.size if end is None else min(end, inode.size), self.block_size
        if inode.data.kind == _LOCAL:
            yield start, inode.data.raw[start:end]
            return
        for first, place, count in self.extents(inode.data):
            at, length = first * size, count * size
            for offset in range(max(start, at), min(end, at + length), PIECE):
                yield offset, self._source.read_at(place + offset - at, min(PIECE, end - offset, at + length - offset))

    def attribute_values(self, inode: XfsInode) -> dict[str, bytes]:
        """Returns the values of a file's extended attributes by their names, sorted."""
        fork = inode.attributes
        if fork.kind == _LOCAL:
            return dict(sorted(xfs_attributes.local(fork.raw)))
        places: dict[int, int] = {}
        for first, place, count in self.extents(fork) if fork.kind in (_EXTENTS, _TREE) else ():
            if len(places) + count > xfs_attributes.MOST_BLOCKS:
                raise self.damaged(f"has attributes of more than {xfs_attributes.MOST_BLOCKS} blocks")
            places |= {first + index: place + index * self.block_size for index in range(count)}
        return dict(sorted(xfs_attributes.of_blocks(places, self._block, self.version == 5))) if places else {}

    def _target(self, inode: XfsInode) -> bytes:
        if inode.data.kind == _LOCAL or self.version < 5:
            return self.read(inode)
        target = bytearray()
        places = (place + index * self.block_size for _, place, count in self.extents(inode.data)
                  for index in range(count))  # fmt: skip
        while len(target) < inode.size:
            block = self._block(next(places, 0))
            if not block.startswith(_LINK):
                raise self.damaged("has a symbolic link whose blocks are another's")
            target += block[_LINK_HEADER:]
        return bytes(target[:inode.size])

    def _rows(self, directory: XfsInode) -> Iterator[tuple[bytes, int]]:
        if directory.data.kind == _LOCAL:
            yield from self._short_rows(directory.data.raw)
            return
        size = self._directory_size
        content = b""
        for at, piece in self.pieces(directory, 0, min(directory.size, _NAMES_END)):
            if at % size == 0:
                content = b""
            content += piece
            while len(content) >= size:
                yield from self._block_rows(content[:size])
                content = content[size:]

    def _short_rows(self, raw: bytes) -> Iterator[tuple[bytes, int]]:
        count, wide = raw[0], raw[1]
        width = 8 if wide else 4
        at = 2 + width
        for _ in range(count):
            if at + 3 > len(raw):
                raise self.damaged("has a directory that is cut short")
            name = raw[at + 3:at + 3 + raw[at]]
            at += 3 + raw[at] + self._has_types
            yield name, int.from_bytes(raw[at:at + width], "big")
            at += width

    def _block_rows(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        magic, at = block[:4], 64 if self.version == 5 else 16
        if magic not in (b"XD2B", b"XD2D", b"XDB3", b"XDD3"):
            raise self.damaged("has a block of a directory that is none")
        end = len(block)
        if magic in (b"XD2B", b"XDB3"):
            end -= 8 + 8 * int.from_bytes(block[-8:-4], "big")
        while at + 12 <= end:
            if int.from_bytes(block[at:at + 2], "big") == _FREE_TAG:
                length = int.from_bytes(block[at + 2:at + 4], "big")
                if length < 8:
                    raise self.damaged("has an inconsistent directory")
                at += length
                continue
            length = block[at + 8]
            yield block[at + 9:at + 9 + length], int.from_bytes(block[at:at + 8], "big")
            at += 11 + length + self._has_types + 7 & ~7

    # Below are blocks.

    def extents(self, fork: XfsFork) -> Iterator[tuple[int, int, int]]:
        """Yields the extents of a fork that are written: the first block in it, the place in bytes, the blocks."""
        if fork.kind == _EXTENTS:
            rows = self._extent_rows(fork.raw, fork.count)
        elif fork.kind == _TREE:
            level, count = struct.unpack_from(">HH", fork.raw)
            most = (len(fork.raw) - 4) // 16
            rows = self._tree(fork.raw[4 + 8 * most:], count, level, set())
        else:
            raise self.damaged(f"has an inode whose format is {fork.kind}")
        behind = 0
        for first, block, count, unwritten in rows:
            if first < behind:
                raise self.damaged("maps some blocks of a file twice")
            behind = first + count
            if not unwritten:
                yield first, self.block_place(block), count

    def block_place(self, number: int) -> int:
        """Returns the place in bytes of a block by its number, in whose upper bits is its group."""
        group, block = divmod(number, 1 << self._group_bits)
        return (group * self._group_blocks + block) * self.block_size

    def _tree(self, pointers: bytes, count: int, level: int, seen: set[int]) -> Iterator[tuple[int, int, int, bool]]:
        if count * 8 > len(pointers) or not 0 < level < _DEEPEST:
            raise self.damaged("has an inconsistent tree of extents")
        for number in range(count):
            place = self.block_place(int.from_bytes(pointers[8 * number:8 * number + 8], "big"))
            block = self._block(place)
            magic, below, rows = struct.unpack_from(">4sHH", block)
            if magic not in (b"BMAP", b"BMA3") or below != level - 1 or place in seen:
                raise self.damaged("has an inconsistent tree of extents")
            seen.add(place)
            start = 72 if magic == b"BMA3" else 24
            if below:
                yield from self._tree(block[start + (len(block) - start) // 16 * 8:], rows, below, seen)
            else:
                yield from self._extent_rows(block[start:], rows)

    def _extent_rows(self, raw: bytes, count: int) -> Iterator[tuple[int, int, int, bool]]:
        if count * 16 > len(raw):
            raise self.damaged("has more extents than an inode or block has room for")
        for at in range(0, 16 * count, 16):
            high, low = struct.unpack_from(">QQ", raw, at)
            yield high >> 9 & (1 << 54) - 1, (high & 511) << 43 | low >> 21, low & (1 << 21) - 1, bool(high >> 63)

    def _counts(self, raw: bytes, version: int) -> tuple[int, int]:
        """The numbers of extents of the two forks."""
        if version == 3 and int.from_bytes(raw[120:128], "big") & _WIDE_COUNTS:
            return int.from_bytes(raw[24:32], "big"), int.from_bytes(raw[76:80], "big")
        return int.from_bytes(raw[76:80], "big"), int.from_bytes(raw[80:82], "big")

    def _require(self, raw: bytes) -> None:
        """Makes sure that the superblock is consistent, and of supported features."""
        incompatible = int.from_bytes(raw[216:220], "big") if self.version == 5 else 0
        if self.version not in (4, 5) or incompatible & ~_KNOWN:
            raise NotJudged(f"XFS of version {self.version} has features that are not read offline (incompat "
                            f"{incompatible & ~_KNOWN:#x})", Reason.IMAGE)
        if self.block_size != 1 << self._block_bits or not 9 <= self._block_bits <= 16 or not self._group_blocks \
                or not 256 <= self._inode_size <= 2048 or self._group_bits > 32 \
                or self._inode_size << self._inodes_bits != self.block_size or raw[192] > 7:  # fmt: skip
            raise self.damaged("has an inconsistent superblock")
        self._has_types = bool(incompatible & 1 if self.version == 5 else
                               int.from_bytes(raw[200:204], "big") & _TYPES_4)  # fmt: skip

    def _read_block(self, place: int) -> bytes:
        return self._source.read_at(place, self.block_size)


def is_xfs(source: ByteSource) -> bool:
    """Returns whether a partition holds XFS."""
    return source.size >= 512 and source.read_at(0, 4) == MAGIC
