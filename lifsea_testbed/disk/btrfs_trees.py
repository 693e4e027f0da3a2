"""The trees of btrfs, and the chunks that say where their blocks lie (kernel fs/btrfs/ctree.h)."""

from __future__ import annotations

import bisect
import functools
import struct
from collections.abc import Iterator

from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason

MAGIC, SUPERBLOCK = b"_BHRfS_M", 65536
#: Supported incompatible features: mixed_backref, default_subvol, mixed_groups, compress_lzo, compress_zstd,
#: big_metadata, extended_iref, skinny_metadata, no_holes, metadata_uuid.
_KNOWN = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400
#: Profiles whose stripes are whole copies: one, two on a device (DUP), copies on several devices (RAID1, RAID1C3, 4).
_PROFILES, _WHOLE = 0x7F8, 0x10 | 0x20 | 0x200 | 0x400
_CHUNK, _HEADER, _ITEM, _POINTER, _DEEPEST = 228, 101, 25, 33, 8
_CHUNK_ITEM, _STRIPE, _MOST_CHUNKS = 48, 32, 1 << 16
#: Blocks of trees that are kept, of at most 64 KiB.
_KEPT = 256

Key = tuple[int, int, int]


class Trees:
    """The trees of a file system on one device: items by their keys, and content by its logical address.

    Raises:
        DiskDamaged: a structure is inconsistent.
        NotJudged: it has an unsupported feature, several devices, or a log.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        raw = source.read_at(SUPERBLOCK, 4096)
        self.root, chunks, log = struct.unpack_from("<3Q", raw, 80)
        self.directory, devices = struct.unpack_from("<QQ", raw, 128)
        self._size, = struct.unpack_from("<I", raw, 148)
        array_size, = struct.unpack_from("<I", raw, 160)
        self.identifier, self.label = raw[32:48], raw[299:555].partition(b"\0")[0].decode("utf-8", "replace")
        self._device, = struct.unpack_from("<Q", raw, 201)
        _require(devices, log, int.from_bytes(raw[188:196], "little"))
        if self._size not in (1 << bits for bits in range(12, 17)) or array_size > 2048:
            raise damaged("has an inconsistent superblock")
        self._block = functools.lru_cache(_KEPT)(self._read_block)
        self._chunks: list[tuple[int, int, int]] = []
        for key, item in _of_array(raw[811:811 + array_size]):
            self._add_chunk(key, item)
        for chunk, item in list(self.items(chunks, (0, _CHUNK, 0), ((1 << 64) - 1, _CHUNK, (1 << 64) - 1))):
            if chunk[1] == _CHUNK:
                self._add_chunk(chunk[2], item)

    def items(self, block: int, first: Key, last: Key) -> Iterator[tuple[Key, bytes]]:
        """Yields the items of the tree with that topmost block whose keys are between the two, in order."""
        yield from self._below(block, first, last, _DEEPEST)

    def read(self, address: int, length: int) -> bytes:
        """Returns so many bytes from a logical address on, which one chunk holds."""
        at = bisect.bisect_right(self._chunks, (address, 1 << 64, 0)) - 1
        start, size, place = self._chunks[at] if at >= 0 else (0, 0, 0)
        if not start <= address <= address + length <= start + size:
            raise damaged(f"refers to address {address}, which no chunk holds")
        return self._source.read_at(place + address - start, length)

    def _below(self, block: int, first: Key, last: Key, deepest: int) -> Iterator[tuple[Key, bytes]]:
        raw = self._block(block)
        count, level = struct.unpack_from("<IB", raw, 96)
        if level >= deepest or _HEADER + count * (_POINTER if level else _ITEM) > len(raw):
            raise damaged("has an inconsistent block of a tree")
        if not level:
            yield from _leaf_items(raw, count, first, last)
            return
        keys = [_key(raw, _HEADER + number * _POINTER) for number in range(count)]
        for number in range(max(0, bisect.bisect_right(keys, first) - 1), count):
            if keys[number] > last:
                return
            below, = struct.unpack_from("<Q", raw, _HEADER + number * _POINTER + 17)
            yield from self._below(below, first, last, level)

    def _add_chunk(self, address: int, item: bytes) -> None:
        if len(item) < _CHUNK_ITEM + _STRIPE or len(self._chunks) >= _MOST_CHUNKS:
            raise damaged("has an inconsistent chunk, or too many")
        length, kind, stripes = struct.unpack_from("<Q16xQ12xH", item)
        if kind & _PROFILES & ~_WHOLE:
            raise NotJudged("btrfs stripes its chunks over devices; that is not read offline", Reason.IMAGE)
        for at in range(_CHUNK_ITEM, min(_CHUNK_ITEM + stripes * _STRIPE, len(item) - 15), _STRIPE):
            device, place = struct.unpack_from("<QQ", item, at)
            if device == self._device:
                row = (address, length, place)
                if row not in self._chunks:
                    bisect.insort(self._chunks, row)
                return
        raise damaged("has a chunk on another device")

    def _read_block(self, address: int) -> bytes:
        raw = self.read(address, self._size)
        if int.from_bytes(raw[48:56], "little") != address:
            raise damaged(f"has another block of a tree at address {address}")
        return raw


def is_btrfs(source: ByteSource) -> bool:
    """Returns whether a partition holds btrfs."""
    return source.size >= SUPERBLOCK + 4096 and source.read_at(SUPERBLOCK + 64, 8) == MAGIC


def damaged(what: str) -> DiskDamaged:
    """Returns the error of a file system that has something wrong."""
    return DiskDamaged(f"the file system {what}", hint="run btrfs check --readonly on that partition")


def _require(devices: int, log: int, features: int) -> None:
    reason = f"lies on {devices} devices" if devices != 1 else \
        "has a log of what was written since its last commit: the system was not shut down" if log else \
        f"has features that are not read offline (incompat {features & ~_KNOWN:#x})" if features & ~_KNOWN else ""
    if reason:
        raise NotJudged(f"btrfs {reason}", Reason.IMAGE)


def _of_array(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The chunks in a superblock, which those of the trees are found by, with their addresses."""
    at = 0
    while at + 17 + _CHUNK_ITEM <= len(raw):
        address, = struct.unpack_from("<Q", raw, at + 9)
        stripes, = struct.unpack_from("<H", raw, at + 17 + 44)
        length = _CHUNK_ITEM + stripes * _STRIPE
        yield address, raw[at + 17:at + 17 + length]
        at += 17 + length


def _leaf_items(raw: bytes, count: int, first: Key, last: Key) -> Iterator[tuple[Key, bytes]]:
    for at in range(_HEADER, _HEADER + count * _ITEM, _ITEM):
        key = _key(raw, at)
        if key > last:
            return
        if key >= first:
            start, size = struct.unpack_from("<II", raw, at + 17)
            if _HEADER + start + size > len(raw):
                raise damaged("has an item behind its leaf")
            yield key, raw[_HEADER + start:_HEADER + start + size]


def _key(raw: bytes, at: int) -> Key:
    number, kind, offset = struct.unpack_from("<QBQ", raw, at)
    return number, kind, offset
