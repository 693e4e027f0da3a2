"""VHDX disks ([MS-VHDX]: Virtual Hard Disk v2 File Format)."""

from __future__ import annotations

import functools
import struct
import uuid
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from lifsea_testbed.disk.source import BlockDisk, ByteSource
from lifsea_testbed.errors import DiskDamaged, ImageRefused

#: The places of the two headers and of the two copies of the table of regions, and their lengths (bytes).
_HEADERS, _HEADER = (64 << 10, 128 << 10), 4 << 10
_TABLES, _TABLE, _MOST_REGIONS = (192 << 10, 256 << 10), 64 << 10, 2047
_BLOCKS, _METADATA = "2dc27766-f623-4200-9d64-115e9bfd4a08", "8b7ca206-4790-4b9a-b8fe-575f050f886e"
_PARAMETERS, _SIZE = "caa16737-fa36-4d43-b3b6-33f0aa44e76b", "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
_SECTOR_SIZE, _OTHERS = "8141bf1d-a96f-4709-ba47-f233a8faab5f", {
    "beca12ab-b2e6-4523-93ef-c309e000c746", "cda348c7-445d-4471-9cc9-e9885251c556"}  # fmt: skip
_REGION_REQUIRED, _ITEM_REQUIRED, _HAS_PARENT = 1, 4, 2
#: The sectors of the blocks of one chunk, behind whose entries in the table there is one of a bitmap.
_CHUNK = 1 << 23
_SECTOR = 512
_PRESENT, _ZEROS = 6, {0, 1, 2, 3, 5}
_STATE, _UNIT = 7, 1 << 20
_LARGEST_SIZE, _LARGEST_TABLE = 64 << 40, 32 << 20
_COPY = "copy it again, compare digests"


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What the metadata say of a disk: its size, that of a block and of a sector (bytes), and its table of blocks."""

    size: int
    block: int
    sector: int
    has_parent: bool
    blocks: tuple[int, int]


def whole(file: ByteSource) -> ByteSource:
    """Returns the disk in a VHDX file.

    Raises:
        DiskDamaged: a header or a table is damaged, or the file is too short for the blocks in the table.
        ImageRefused: it refers to another file, has sectors of another size than 512 bytes, or was not closed.
    """
    _require_closed(file)
    layout = _layout(file)
    if layout.has_parent:
        raise ImageRefused("is a differencing VHDX, which needs another disk",
                           hint="give --image a disk that is whole: merge it with the one that it names")
    if layout.sector != _SECTOR:
        raise ImageRefused(f"is a VHDX with sectors of {layout.sector} bytes, which no ECS instance has",
                           hint="make it anew with sectors of 512 bytes")
    table, block = _table(file, layout), layout.block
    chunk = _CHUNK * _SECTOR // block

    def place(number: int) -> int | None:
        entry = table[number + number // chunk]
        return entry // _UNIT * _UNIT if entry & _STATE == _PRESENT else None

    return BlockDisk(file, size=layout.size, block=block, place=place)


def _require_closed(file: ByteSource) -> None:
    """Reads the header with the higher number, whose log has to be empty: QEMU does not replay it read-only."""
    found = [data for start in _HEADERS if _is_sound(data := file.read_at(start, _HEADER), b"head")]
    if not found:
        raise DiskDamaged("no header of a VHDX is sound", hint=_COPY)
    newest = max(found, key=lambda data: int(struct.unpack_from("<Q", data, 8)[0]))
    version = struct.unpack_from("<H", newest, 66)[0]
    if version != 1:
        raise ImageRefused(f"is a VHDX of version {version}; QEMU reads version 1", hint="make it anew in version 1")
    if any(newest[48:64]):
        raise ImageRefused("is a VHDX that was not closed: its log is not empty",
                           hint="in a copy of it: qemu-img check -r all -f vhdx {file}")


def _layout(file: ByteSource) -> _Layout:
    regions = _regions(file)
    start, length = regions[_METADATA]
    items = dict(_items(file.read_at(start, min(_TABLE, length))))
    if missing := {_PARAMETERS, _SIZE, _SECTOR_SIZE} - items.keys():
        raise DiskDamaged(f"a VHDX lacks metadata: {', '.join(sorted(missing))}", hint=_COPY)
    block, bits = struct.unpack("<II", file.read_at(start + items[_PARAMETERS], 8))
    size = struct.unpack("<Q", file.read_at(start + items[_SIZE], 8))[0]
    sector = struct.unpack("<I", file.read_at(start + items[_SECTOR_SIZE], 4))[0]
    if not 1 << 20 <= block <= 256 << 20 or block & (block - 1) or not 0 < size <= _LARGEST_SIZE or size % _SECTOR:
        raise DiskDamaged(f"a VHDX of {size} bytes in blocks of {block}", hint=_COPY)
    return _Layout(size=size, block=block, sector=sector, has_parent=bool(bits & _HAS_PARENT), blocks=regions[_BLOCKS])


def _regions(file: ByteSource) -> dict[str, tuple[int, int]]:
    """Place and length of each region, from the first copy of the table, as QEMU reads it."""
    table = file.read_at(_TABLES[0], _TABLE)
    if not _is_sound(table, b"regi"):
        raise DiskDamaged("the table of regions of a VHDX is damaged", hint=_COPY)
    count = min(_MOST_REGIONS, struct.unpack_from("<I", table, 8)[0])
    rows = [struct.unpack_from("<16sQII", table, 16 + 32 * number) for number in range(count)]
    found = {str(uuid.UUID(bytes_le=row[0])): (row[1], row[2]) for row in rows}
    required = {str(uuid.UUID(bytes_le=row[0])) for row in rows if row[3] & _REGION_REQUIRED}
    if unknown := required - {_BLOCKS, _METADATA}:
        raise ImageRefused(f"is a VHDX with regions that are not known: {', '.join(sorted(unknown))}",
                           hint="convert it on the system that made it")
    if len(found) != count or not {_BLOCKS, _METADATA} <= found.keys():
        raise DiskDamaged("the table of regions of a VHDX contradicts itself", hint=_COPY)
    return found


def _items(table: bytes) -> Iterator[tuple[str, int]]:
    """Yields each item of the metadata with its place in the region."""
    count = struct.unpack_from("<H", table, 10)[0] if table.startswith(b"metadata") and len(table) >= 32 else -1
    if not 0 <= count < len(table) // 32:
        raise DiskDamaged("the metadata of a VHDX are damaged", hint=_COPY)
    for number in range(count):
        name, place, _, bits = struct.unpack_from("<16sIII", table, 32 * (number + 1))
        item = str(uuid.UUID(bytes_le=name))
        if bits & _ITEM_REQUIRED and item not in {_PARAMETERS, _SIZE, _SECTOR_SIZE, *_OTHERS}:
            raise ImageRefused(f"is a VHDX with metadata that are not known: {item}",
                               hint="convert it on the system that made it")
        yield item, place


def _table(file: ByteSource, layout: _Layout) -> array[int]:
    """The entries of the table of blocks, of which those of bitmaps are never used, each block in it in the file."""
    blocks = -(-layout.size // layout.block)
    count = blocks + (blocks - 1) // (_CHUNK * _SECTOR // layout.block)
    start, length = layout.blocks
    if not count * 8 <= min(length, _LARGEST_TABLE):
        raise DiskDamaged(f"the table of blocks of a VHDX has {length // 8} entries of {count}", hint=_COPY)
    table = array("Q", file.read_at(start, count * 8))
    chunk = _CHUNK * _SECTOR // layout.block
    entries = [table[number + number // chunk] for number in range(blocks)]
    if unknown := {entry & _STATE for entry in entries} - _ZEROS - {_PRESENT}:
        raise DiskDamaged(f"the table of blocks of a VHDX has entries of the states {sorted(unknown)}", hint=_COPY)
    used = [entry // _UNIT * _UNIT for entry in entries if entry & _STATE == _PRESENT]
    if used and (max(used) + layout.block > file.size or len(used) * layout.block > file.size):
        raise DiskDamaged("the table of blocks of a VHDX has blocks behind the end of the file", hint=_COPY)
    return table


def _is_sound(data: bytes, signature: bytes) -> bool:
    """Whether a header or table has its signature and its checksum, which is taken with zeros in its own place."""
    stored = struct.unpack_from("<I", data, 4)[0]
    return data.startswith(signature) and _crc32c(data[:4] + bytes(4) + data[8:]) == stored


@functools.lru_cache(4)
def _crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4: the polynomial of Castagnoli, reflected 0x82f63b78).

    The last ones are kept: a table of 64 KiB takes 7 ms, and is checked each time that its disk is opened.
    """
    table, value = _crc_table(), 0xFFFF_FFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFF_FFFF


@functools.cache
def _crc_table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))
