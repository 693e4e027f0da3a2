"""The log of a disk's writes and flushes, in the order in which they completed.

The format is that of dm-log-writes (Linux Documentation/admin-guide/device-mapper/log-writes.rst), as QEMU's
`blklogwrites` writes it (QEMU block/blklogwrites.c): little-endian, one sector for the header of the log, then for
each entry a sector with its header and the sectors that it wrote. A discard has no data. QEMU writes no marks, and no
sign of FUA: the driver of a recorded disk must send flushes instead, as virtio-blk does.
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


class LogFlag(enum.IntFlag):
    """The flags of an entry; a plain write has none."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One request: position and length on the disk (sectors), flags, offsets of its data and end in the log (bytes)."""

    sector: int
    sectors: int
    flags: LogFlag
    data: int
    end: int

    @property
    def is_write(self) -> bool:
        """Whether it changes the disk; a discard counts as no change."""
        return self.sectors > 0 and not self.flags & (LogFlag.DISCARD | LogFlag.MARK)

    @property
    def is_flush(self) -> bool:
        """Whether all earlier writes are durable once it has completed."""
        return bool(self.flags & LogFlag.FLUSH)


class WriteLog:
    """A log, read whole and checked; elsewhere an entry is identified by its index in `entries`.

    Raises:
        TestbedError: it is not such a log, contradicts itself, or holds no flush.
    """

    def __init__(self, source: ByteSource, *, disk_size: int) -> None:
        self._source = source
        self.disk_size = disk_size
        self.entries: Sequence[LogEntry] = tuple(_walk(source, disk_size))
        if not any(entry.is_flush for entry in self.entries):
            raise _unsound("it holds no flush", hint="the disk needs write-cache=on, and a guest that flushes")

    def data(self, entry: LogEntry, first: int = 0, sectors: int | None = None) -> bytes:
        """Returns the data of an entry, from its `first` sector on."""
        count = entry.sectors - first if sectors is None else sectors
        return self._source.read_at(entry.data + first * SECTOR, count * SECTOR)

    def count_at(self, size: int) -> int:
        """Returns the number of entries that lie whole within the first `size` bytes of the log."""
        return sum(entry.end <= size for entry in self.entries)


def _walk(source: ByteSource, disk_size: int) -> Iterator[LogEntry]:
    """Yields all entries, also those past the header's count, which QEMU updates with flushes only."""
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


def _entry(source: ByteSource, place: int, disk_size: int, number: int) -> LogEntry:
    sector, sectors, flags, extra = _ENTRY.unpack(source.read_at(place, _ENTRY.size))
    if flags >= 2 * LogFlag.METADATA or extra or (sector + sectors) * SECTOR > disk_size:
        raise _unsound(f"entry {number} is of {sectors} sectors at {sector}, flags {flags:#x}, and {extra} bytes more")
    data = place + SECTOR
    end = data if flags & LogFlag.DISCARD else data + sectors * SECTOR
    if end > source.size:
        raise _unsound(f"entry {number} ends at byte {end}, the log at {source.size}")
    return LogEntry(sector=sector, sectors=sectors, flags=LogFlag(flags), data=data, end=end)


def _refuse_rest(source: ByteSource, place: int) -> None:
    while place < source.size:
        part = min(1 << 20, source.size - place)
        if any(source.read_at(place, part)):
            raise _unsound(f"it has data behind its end, after byte {place}")
        place += part


def _unsound(why: str, *, hint: str = "record again; QEMU before 9.0 may corrupt it when writes run in parallel") \
        -> TestbedError:
    return TestbedError(f"the log of the disk's writes is unsound: {why}", hint=hint)


def replay(base: bytes, log: WriteLog, count: int | None = None) -> bytes:
    """Returns `base` after the first `count` entries, or all of them: the plain way, for disks that fit in memory."""
    disk = bytearray(base)
    for entry in log.entries[:count]:
        if entry.is_write:
            disk[entry.sector * SECTOR:(entry.sector + entry.sectors) * SECTOR] = log.data(entry)
    return bytes(disk)
