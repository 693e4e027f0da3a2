"""ext2, ext3 and ext4, read-only, with the content of the journal (kernel Documentation/filesystems/ext4/)."""

from __future__ import annotations

import functools
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from lifsea_testbed.disk import ext4_attributes, journal
from lifsea_testbed.disk.inodes import PIECE, FileSystem, Inode
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import NotJudged, Reason

ROOT = 2
_MAGIC, _EXTENT_MAGIC = 0xEF53, 0xF30A
#: Where the superblock lies (bytes).
_SUPERBLOCK = 1024
_RECOVER, _WIDE, _META_GROUPS = 0x4, 0x80, 0x10
#: Incompatible features by their bits (e2fsprogs, lib/e2p/feature.c), and those that are not supported.
_FEATURES = {0x1: "compression", 0x2: "filetype", _RECOVER: "needs_recovery", 0x8: "journal_dev",
             _META_GROUPS: "meta_bg", 0x40: "extent", _WIDE: "64bit", 0x100: "mmp", 0x200: "flex_bg",
             0x400: "ea_inode", 0x1000: "dirdata", 0x2000: "metadata_csum_seed", 0x4000: "large_dir",
             0x8000: "inline_data", 0x10000: "encrypt", 0x20000: "casefold"}  # fmt: skip
_UNSUPPORTED = 0x1 | 0x8 | 0x1000
_IN_EXTENTS, _IN_INODE, _ENCRYPTED = 0x80000, 0x10000000, 0x800
_LONGEST_RUN = 32768
#: The attribute that holds what of a content within an inode is not in its map of blocks, and the largest attribute.
_CONTENT, _LARGEST_VALUE = "system.data", 65536
_DEEPEST = 5
#: mke2fs makes no journal beyond 1 GiB.
_LARGEST_JOURNAL = 1 << 30
#: The blocks of inodes that the kernel reads ahead, starting at a multiple (EXT4_DEF_INODE_READAHEAD_BLKS).
_READ_AHEAD = 32
#: The bytes of blocks that are cached.
_KEPT = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Ext4Inode(Inode):
    """A file of any kind, with `flags` and `block` as on disk (i_flags, i_block)."""

    flags: int
    block: bytes


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The fields of a superblock that locate files; sizes in bytes, counts in blocks or inodes."""

    block_size: int
    blocks: int
    inodes: int
    inodes_per_group: int
    inode_size: int
    descriptor_size: int
    first_block: int
    blocks_per_group: int
    first_meta_group: int
    sparse: bool
    incompatible: int
    journal: int
    identifier: str
    label: str


class Ext4(FileSystem[Ext4Inode]):
    """The file system on a partition: ext2, ext3 or ext4.

    Committed changes in the journal are included, as the kernel would replay them.

    Raises:
        DiskDamaged: a structure is inconsistent.
        NotJudged: it uses an unsupported feature.
    """

    checker, root = "e2fsck -fn", ROOT

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source
        self._newer: dict[int, journal.JournalBlock] = {}
        self._take_layout(source.read_at(_SUPERBLOCK, 1024))
        self._block = functools.lru_cache(_KEPT // self.layout.block_size)(self._read_block)
        if self.layout.incompatible & _RECOVER:
            self._replay()

    def inode(self, number: int) -> Ext4Inode:
        """Returns the inode with that number."""
        if not 0 < number <= self.layout.inodes:
            raise Ext4.damaged(f"refers to inode {number} of {self.layout.inodes}")
        table, place = self._inode_place(number)
        raw = self._bytes(table * self.layout.block_size + place, 128)
        mode, user, low, group, flags, block, high = struct.unpack_from("<2HI16xH6xI4x60s8xI", raw)
        return Ext4Inode(number=number, mode=mode, user=_at("<H", raw, 0x78)[0] << 16 | user,
                         group=_at("<H", raw, 0x7A)[0] << 16 | group, size=high << 32 | low, flags=flags,
                         block=block)  # fmt: skip

    def pieces(self, inode: Ext4Inode, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yields offset and content of the parts of a file between `start` and `end` that are no holes, in order.

        A part has at most 4 MiB.

        Raises:
            NotJudged: the file is encrypted.
        """
        if inode.flags & _ENCRYPTED:
            raise NotJudged("the file system keeps files encrypted; that is not read offline", Reason.IMAGE)
        size, end = self.layout.block_size, inode.size if end is None else min(end, inode.size)
        if inode.flags & _IN_INODE:
            yield start, b"".join(self._parts_in(inode))[start:end]
            return
        for first, place, count in self._runs(inode, -(-end // size)):
            for index in range(max(0, start // size - first), count, PIECE // size):
                at = (first + index) * size
                piece = self._blocks(place + index, min(count - index, PIECE // size))
                yield max(at, start), piece[max(0, start - at):end - at]

    def _target(self, inode: Ext4Inode) -> bytes:
        short = inode.size < len(inode.block) and not inode.flags & (_IN_EXTENTS | _ENCRYPTED)
        return inode.block[:inode.size] if short else self.read(inode, self.layout.block_size)

    def _rows(self, directory: Ext4Inode) -> Iterator[tuple[bytes, int]]:
        if directory.flags & _IN_INODE:
            parent_and_rows, rows = self._parts_in(directory)
            yield from (*_entries(parent_and_rows[4:]), *_entries(rows))
            return
        content, size = self.read(directory), self.layout.block_size
        for start in range(0, len(content), size):
            yield from _entries(content[start:start + size])

    def attributes(self, inode: Ext4Inode) -> list[str]:
        """Returns the names of a file's extended attributes, sorted, of the two places where ext4 keeps them."""
        return sorted(name for name, _ in self._attributes(inode) if name != _CONTENT)

    def attribute_values(self, inode: Ext4Inode) -> dict[str, bytes]:
        """Returns the values of a file's extended attributes by their names, sorted."""
        found = dict(sorted(self._attributes(inode), key=lambda attribute: attribute[0]))
        return {name: self.read(self.inode(value), _LARGEST_VALUE) if isinstance(value, int) else value
                for name, value in found.items() if name != _CONTENT}  # fmt: skip

    def _parts_in(self, inode: Ext4Inode) -> tuple[bytes, bytes]:
        """The two parts of a content within an inode: in the place of its map of blocks, and in an attribute."""
        value = dict(self._attributes(inode)).get(_CONTENT, b"")
        if isinstance(value, int):
            raise self.damaged(f"has the content of inode {inode.number} in another one")
        return inode.block, value

    def _attributes(self, inode: Ext4Inode) -> list[tuple[str, bytes | int]]:
        table, place = self._inode_place(inode.number)
        raw = self._bytes(table * self.layout.block_size + place, self.layout.inode_size)
        found = ext4_attributes.parse(raw[128 + _at("<H", raw, 128)[0]:], 4, 4) if len(raw) > 128 else []
        number = _at("<H", raw, 0x76)[0] << 32 | _at("<I", raw, 0x68)[0]
        return found + (ext4_attributes.parse(self._block(number), 32, 0) if number else [])

    def _take_layout(self, superblock: bytes) -> None:
        self.layout = parse_superblock(superblock)
        self.capacity = self.layout.blocks * self.layout.block_size
        self.identifier, self.label = self.layout.identifier, self.layout.label

    # Below are blocks.

    def _inode_place(self, number: int) -> tuple[int, int]:
        """The location of an inode: the first block of its group's table, and the offset in bytes from there."""
        group, index = divmod(number - 1, self.layout.inodes_per_group)
        return self._inode_table(group), index * self.layout.inode_size

    def _inode_table(self, group: int) -> int:
        layout = self.layout
        block, index = divmod(group, layout.block_size // layout.descriptor_size)
        place = descriptor_block(layout, block) * layout.block_size + index * layout.descriptor_size
        raw = self._bytes(place, layout.descriptor_size)
        high = int(_at("<I", raw, 0x28)[0]) if layout.descriptor_size >= 64 else 0
        return high << 32 | int(_at("<I", raw, 8)[0])

    def _runs(self, inode: Ext4Inode, blocks: int) -> Iterator[tuple[int, int, int]]:
        """Yields the runs of a file's blocks, in order: the first in the file, the first on the disk, their number."""
        end = 0
        mapped = self._extents(inode.block, _DEEPEST, _budget(blocks)) if inode.flags & _IN_EXTENTS else \
            self._listed(inode, blocks)  # fmt: skip
        for first, place, count in mapped:
            if first < end:
                raise Ext4.damaged(f"maps some blocks of inode {inode.number} twice")
            if first < blocks:
                yield first, place, min(count, blocks - first)
            end = first + count

    def _listed(self, inode: Ext4Inode, blocks: int) -> Iterator[tuple[int, int, int]]:
        direct = struct.unpack("<15I", inode.block)
        yield from ((index, place, 1) for index, place in enumerate(direct[:12]) if place and index < blocks)
        first = 12
        for depth, place in enumerate(direct[12:], 1):
            yield from self._mapped(place, depth, first, blocks)
            first += (self.layout.block_size // 4) ** depth

    def _extents(self, node: bytes, deepest: int, budget: Iterator[int]) -> Iterator[tuple[int, int, int]]:
        magic, count, _, depth = struct.unpack_from("<4H", node)
        if magic != _EXTENT_MAGIC or depth > deepest or 12 * (count + 1) > len(node):
            raise Ext4.damaged("has an invalid extent tree")
        for place in range(12, 12 * (count + 1), 12):
            next(budget)
            if depth:
                low, high = struct.unpack_from("<IH", node, place + 4)
                yield from self._extents(self._block(high << 32 | low), depth - 1, budget)
            else:
                first, length, high, low = struct.unpack_from("<IHHI", node, place)
                if length <= _LONGEST_RUN:
                    yield first, high << 32 | low, length

    def _mapped(self, place: int, depth: int, first: int, blocks: int) -> Iterator[tuple[int, int, int]]:
        if not place or first >= blocks:
            return
        if depth == 0:
            yield first, place, 1
            return
        step = (self.layout.block_size // 4) ** (depth - 1)
        for index, below in enumerate(struct.unpack(f"<{self.layout.block_size // 4}I", self._block(place))):
            yield from self._mapped(below, depth - 1, first + index * step, blocks)

    def _bytes(self, place: int, length: int) -> bytes:
        block, start = divmod(place, self.layout.block_size)
        if start + length > self.layout.block_size:
            raise Ext4.damaged("has a table that is not aligned")
        return self._block(block)[start:start + length]

    def _blocks(self, first: int, count: int) -> bytes:
        if self._newer:
            return b"".join(map(self._block, range(first, first + count)))
        return self._source.read_at(first * self.layout.block_size, count * self.layout.block_size)

    def _read_block(self, number: int) -> bytes:
        newer = self._newer.get(number)
        size = self.layout.block_size
        data = self._source.read_at((newer.block if newer else number) * size, size)
        return journal.MAGIC + data[4:] if newer and newer.escaped else data

    def _replay(self) -> None:
        newer = journal.newer_blocks(self._block, self._journal())
        self._block.cache_clear()
        self._newer = newer
        self._take_layout((self._block(0) + self._block(1))[_SUPERBLOCK:2 * _SUPERBLOCK])

    def _journal(self) -> dict[int, int]:
        """Returns the block of the file system for each block of its journal."""
        if not self.layout.journal:
            raise NotJudged("the file system's journal lies on another device", Reason.IMAGE)
        inode = self.inode(self.layout.journal)
        if inode.size > _LARGEST_JOURNAL:
            raise NotJudged(f"a journal of {inode.size} bytes is not read offline", Reason.IMAGE)
        runs = self._runs(inode, inode.size // self.layout.block_size)
        return {first + index: place + index for first, place, count in runs for index in range(count)}


class UnreplayedExt4(Ext4):
    """A file system as a boot loader reads it: without the changes that are only in the journal."""

    def idle_journal(self) -> set[int]:
        """Returns the blocks of the journal whose content does not affect recovery, even if they are read ahead."""
        places = self._journal()
        return set(places.values()) - journal.read_by_recovery(self._block, places)

    def replayed_inodes(self) -> set[int]:
        """Returns the blocks of inodes that are read ahead with the journal's inode and that recovery overwrites.

        The kernel reads 33 blocks of the table at once (__ext4_get_inode_loc in fs/ext4/inode.c).
        """
        table, place = self._inode_place(self.layout.journal)
        own = table + place // self.layout.block_size
        first = max(table, own - own % _READ_AHEAD)
        along = set(range(first, first + _READ_AHEAD + 1)) - {own}
        return along & journal.newer_blocks(self._block, self._journal()).keys()

    def _replay(self) -> None:
        """Ignores the journal."""


def is_ext4(source: ByteSource) -> bool:
    """Returns whether a partition holds ext2, ext3 or ext4."""
    return source.size >= 2048 and source.read_at(1024 + 0x38, 2) == _MAGIC.to_bytes(2, "little")


def parse_superblock(raw: bytes) -> Layout:
    """Parses the 1024 bytes of a superblock.

    Raises:
        DiskDamaged: they are inconsistent.
        NotJudged: an unsupported feature is in use.
    """
    inodes, low, first_block, log, per_group = (int(_at("<I", raw, at)[0]) for at in (0x0, 0x4, 0x14, 0x18, 0x28))
    group, read_only, first_meta = (int(_at("<I", raw, at)[0]) for at in (0x20, 0x64, 0x104))
    magic, inode_size, descriptor = (int(_at("<H", raw, at)[0]) for at in (0x38, 0x58, 0xFE))
    incompatible, journal_inode, high = (int(_at("<I", raw, at)[0]) for at in (0x60, 0xE0, 0x150))
    wide = bool(incompatible & _WIDE)
    if unknown := _unsupported(incompatible):
        raise NotJudged(f"the file system has features that are not read offline: {', '.join(unknown)}", Reason.IMAGE)
    size = descriptor if wide else 32
    if magic != _MAGIC or log > 6 or not per_group or inode_size not in (128, 256, 512, 1024, 2048, 4096) \
            or size not in (32, 64, 128, 256, 512, 1024):  # fmt: skip
        raise Ext4.damaged("has an inconsistent superblock")
    return Layout(block_size=1024 << log, blocks=(high << 32 if wide else 0) | low, inodes=inodes,
                  inodes_per_group=per_group, inode_size=inode_size, descriptor_size=size, first_block=first_block,
                  blocks_per_group=group, first_meta_group=first_meta, sparse=bool(read_only & 1),
                  incompatible=incompatible, journal=journal_inode, identifier=_uuid(raw[0x68:0x78]),
                  label=raw[0x78:0x88].rstrip(b"\0").decode("utf-8", "replace"))  # fmt: skip


def _unsupported(incompatible: int) -> list[str]:
    """The names of the features that are not supported, of such a set; filetype is needed."""
    bits = (1 << number for number in range(32) if incompatible >> number & 1)
    return [_FEATURES.get(bit, f"incompat {bit:#x}") for bit in bits if bit & _UNSUPPORTED or bit not in _FEATURES] \
        + ([] if incompatible & 0x2 else ["no filetype"])  # fmt: skip


def descriptor_block(layout: Layout, number: int) -> int:
    """Returns the location of a block of group descriptors: after the superblock, or in its own groups ("meta_bg").

    The superblock lies in block 1 where blocks have 1 KiB, also with "bigalloc", where the first block is 0 all the
    same (fs/ext4/super.c, descriptor_loc).
    """
    superblock = _SUPERBLOCK // layout.block_size
    if not layout.incompatible & _META_GROUPS or number < layout.first_meta_group or number == 0:
        return superblock + 1 + number
    group = number * (layout.block_size // layout.descriptor_size)
    behind_copy = group < 2 or not layout.sparse or any(_is_power(group, base) for base in (3, 5, 7))
    return layout.first_block + group * layout.blocks_per_group + behind_copy


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def _budget(blocks: int) -> Iterator[int]:
    """Bounds the entries of an extent tree: each maps at least one block of the file, and some lie beyond its end."""
    yield from range(2 * blocks + 1024)
    raise Ext4.damaged("has an extent tree that is larger than its file")


def _entries(block: bytes) -> Iterator[tuple[bytes, int]]:
    place = 0
    while place < len(block) - 8:
        number, length, name_length = struct.unpack_from("<IHB", block, place)
        if length < 8 or length % 4 or place + length > len(block) or 8 + name_length > length:
            raise Ext4.damaged("has an inconsistent directory")
        if number:
            yield block[place + 8:place + 8 + name_length], number
        place += length


def _at(form: str, raw: bytes, place: int) -> tuple[int, ...]:
    return struct.unpack_from(form, raw, place)


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))
