"""The log of a disk's writes and flushes, in the order in which they completed.

The format is that of dm-log-writes (Linux Documentation/admin-guide/device-mapper/log-writes.rst), as QEMU's
`blklogwrites` writes it (QEMU block/blklogwrites.c): little-endian, one sector for the header of the log, then for
each entry a sector with its header and the sectors that it wrote. A discard has no data. QEMU writes no marks, and no
sign of FUA: a disk that is recorded must be one whose driver sends flushes instead, as virtio-blk's does.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import TestbedError

#: The unit in which the log is written and in which a disk can tear a write (bytes).
SECTOR = 512
_MAGIC, _VERSION = 0x6A736677736872, 1
_HEADER, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")


class Flag(enum.IntFlag):
    """What an entry is, beside a write."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One request: where on the disk (sectors), what it is, where in the log its data lies and it ends (bytes)."""

    sector: int
    sectors: int
    flags: Flag
    data: int
    end: int

    @property
    def is_write(self) -> bool:
        """Whether it changes the disk; a discard is taken to change nothing."""
        return self.sectors > 0 and not self.flags & (Flag.DISCARD | Flag.MARK)

    @property
    def is_flush(self) -> bool:
        """Whether all that completed before it is safe once it has completed."""
        return bool(self.flags & Flag.FLUSH)


class WriteLog:
    """A log that was read whole and found sound; an entry's place in `entries` is its name everywhere else.

    Raises:
        TestbedError: it is no such log, contradicts itself, or holds no flush at all.
    """

    def __init__(self, source: ByteSource, *, disk_size: int) -> None:
        self._source = source
        self.disk_size = disk_size
        self.entries: Sequence[Entry] = tuple(_walk(source, disk_size))
        if not any(entry.is_flush for entry in self.entries):
            raise _unsound("it holds no flush", hint="the disk needs write-cache=on, and a guest that flushes")

    def data(self, entry: Entry, first: int = 0, sectors: int | None = None) -> bytes:
        """Returns what an entry wrote, from its `first` sector on."""
        count = entry.sectors - first if sectors is None else sectors
        return self._source.read_at(entry.data + first * SECTOR, count * SECTOR)

    def count_at(self, size: int) -> int:
        """Returns how many entries a log of that many bytes holds whole."""
        return sum(entry.end <= size for entry in self.entries)


def _walk(source: ByteSource, disk_size: int) -> Iterator[Entry]:
    """Yields the entries, those behind the header's count too: QEMU updates that with a flush only."""
    promised, place = _count(source), SECTOR
    for number in range(source.size // SECTOR):
        if place + SECTOR > source.size or not any(source.read_at(place, _ENTRY.size)):
            if number < promised:
                raise _unsound(f"it ends after {number} of {promised} entries")
            _refuse_rest(source, place)
            return
        entry = _entry(source, place, disk_size, number)
        yield entry
        place = entry.end


def _count(source: ByteSource) -> int:
    if source.size < SECTOR:
        raise _unsound(f"it has {source.size} bytes")
    magic, version, count, sector = _HEADER.unpack(source.read_at(0, _HEADER.size))
    if (magic, version, sector) != (_MAGIC, _VERSION, SECTOR):
        raise _unsound(f"its header has magic {magic:#x}, version {version}, sectors of {sector} bytes")
    return int(count)


def _entry(source: ByteSource, place: int, disk_size: int, number: int) -> Entry:
    sector, sectors, flags, extra = _ENTRY.unpack(source.read_at(place, _ENTRY.size))
    if flags >= 2 * Flag.METADATA or extra or (sector + sectors) * SECTOR > disk_size:
        raise _unsound(f"entry {number} is of {sectors} sectors at {sector}, flags {flags:#x}, and {extra} bytes more")
    data = place + SECTOR
    end = data if flags & Flag.DISCARD else data + sectors * SECTOR
    if end > source.size:
        raise _unsound(f"entry {number} ends at byte {end}, the log at {source.size}")
    return Entry(sector=sector, sectors=sectors, flags=Flag(flags), data=data, end=end)


def _refuse_rest(source: ByteSource, place: int) -> None:
    while place < source.size:
        part = min(1 << 20, source.size - place)
        if any(source.read_at(place, part)):
            raise _unsound(f"there is something behind its end, after byte {place}")
        place += part


def _unsound(why: str, *, hint: str = "record again; QEMU before 9.0 may corrupt it when writes run in parallel") \
        -> TestbedError:
    return TestbedError(f"the log of the disk's writes is unsound: {why}", hint=hint)


def replay(base: bytes, log: WriteLog, count: int | None = None) -> bytes:
    """Returns a disk that held `base` after the first `count` entries, or all: plain, for disks that fit in memory."""
    disk = bytearray(base)
    for entry in log.entries[:count]:
        if entry.is_write:
            disk[entry.sector * SECTOR:(entry.sector + entry.sectors) * SECTOR] = log.data(entry)
    return bytes(disk)
