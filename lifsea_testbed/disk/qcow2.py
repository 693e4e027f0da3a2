"""qcow2 disks: clusters in two levels of tables (QEMU docs/interop/qcow2.txt), optionally above another disk."""

from __future__ import annotations

import functools
import struct
import zlib
from array import array
from collections.abc import Iterator

from lifsea_testbed.disk.qcow2_header import KNOWN_FEATURES, LARGEST, IncompatibleFeature, parse_qcow2_header
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason

_HEADER = 104
_COMPRESSED, _ZERO = 1 << 62, 1
_OFFSET = 0x00FF_FFFF_FFFF_FE00
#: The bound of QEMU (QCOW_MAX_L1_SIZE).
_LARGEST_TABLE = 32 << 20
#: The bytes of tables, and of inflated clusters, that are cached.
_KEPT = 16 << 20


class Qcow2:
    """The disk in a qcow2 file; clusters that are not in it are read from the disk `below`, or are zeros.

    The backing file that the header names is never opened.

    Raises:
        DiskDamaged: the tables are inconsistent.
        NotJudged: the file uses an unsupported feature (zstd, subclusters, encryption).
    """

    def __init__(self, file: ByteSource, below: ByteSource | None = None) -> None:
        self._file, self._below = file, below
        head = file.read_at(0, min(_HEADER, file.size))
        try:
            header = parse_qcow2_header(head)
        except ValueError as error:
            raise DiskDamaged(f"no qcow2 disk: {error}", hint="qemu-img check") from None
        _refuse(header.incompatible, encrypted=header.encrypted)
        self.size = header.virtual_size
        bits, entries, table = map(int, struct.unpack_from(">I12xIQ", head, 20))
        if not 9 <= bits <= 21 or self.size > LARGEST:
            raise DiskDamaged(f"a qcow2 disk of {self.size} bytes in clusters of 2^{bits}", hint="qemu-img check")
        self._cluster, self._bits = 1 << bits, bits
        needed = -(-self.size // (self._cluster * (self._cluster // 8)))
        if entries < needed or needed * 8 > _LARGEST_TABLE:
            raise DiskDamaged("the first table of a qcow2 disk does not fit it", hint="qemu-img check")
        self._tables = _numbers(file.read_at(table, needed * 8))
        self._table = functools.lru_cache(_KEPT >> bits)(self._read_table)
        self._inflated = functools.lru_cache(_KEPT >> bits)(self._inflate)

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of the disk; raises DiskDamaged beyond its end."""
        if offset < 0 or offset + length > self.size:
            raise DiskDamaged(f"the disk ends before byte {offset + length}", hint="copy the image again")
        parts = []
        while length > 0:
            inside = offset % self._cluster
            part = min(length, self._cluster - inside)
            parts.append(self._read(offset >> self._bits, inside, part))
            offset, length = offset + part, length - part
        return b"".join(parts)

    def own(self) -> Iterator[tuple[int, int]]:
        """Yields the parts of the disk, offset and length, that are in the file itself, in order."""
        for first, table in enumerate(self._tables):
            entries = self._table(table & _OFFSET) if table & _OFFSET else ()
            for second, entry in enumerate(entries):
                if entry:
                    offset = first * (self._cluster // 8) + second << self._bits
                    yield offset, min(self._cluster, self.size - offset)

    def _read(self, cluster: int, inside: int, length: int) -> bytes:
        entry = self._entry(cluster)
        if entry & _COMPRESSED:
            return self._inflated(entry)[inside:inside + length]
        if entry & _ZERO:
            return bytes(length)
        if place := entry & _OFFSET:
            return self._file.read_at(place + inside, length)
        return self._read_below((cluster << self._bits) + inside, length)

    def _read_below(self, offset: int, length: int) -> bytes:
        there = 0 if self._below is None else max(0, min(length, self._below.size - offset))
        return (self._below.read_at(offset, there) if self._below and there else b"") + bytes(length - there)

    def _entry(self, cluster: int) -> int:
        first, second = divmod(cluster, self._cluster // 8)
        table = self._tables[first] & _OFFSET
        return self._table(table)[second] if table else 0

    def _read_table(self, place: int) -> array[int]:
        return _numbers(self._file.read_at(place, self._cluster))

    def _inflate(self, entry: int) -> bytes:
        split = 62 - (self._bits - 8)
        place = entry & ((1 << split) - 1)
        sectors = (entry >> split) & ((1 << (self._bits - 8)) - 1)
        length = min((sectors + 1) * 512 - place % 512, self._file.size - place)
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(self._file.read_at(place, length), self._cluster)
        except zlib.error as error:
            raise DiskDamaged(f"a compressed cluster cannot be read: {error}", hint="qemu-img check") from None
        if len(data) != self._cluster:
            raise DiskDamaged("a compressed cluster is too short", hint="qemu-img check")
        return data


def _refuse(incompatible: int, *, encrypted: bool) -> None:
    if incompatible & IncompatibleFeature.CORRUPT:
        raise DiskDamaged("a qcow2 disk that is marked corrupt", hint="qemu-img check -r all")
    if encrypted or incompatible & IncompatibleFeature.EXTERNAL_DATA:
        raise NotJudged("a qcow2 disk that is encrypted or keeps its data in another file is not read offline",
                        Reason.IMAGE)
    unread = IncompatibleFeature.COMPRESSION | IncompatibleFeature.EXTENDED_TABLES
    if incompatible & unread or incompatible & ~KNOWN_FEATURES:
        raise NotJudged("a qcow2 disk with zstd, subclusters or unknown features is not read offline; "
                        "qemu-img convert -O qcow2 IN OUT makes one that is", Reason.IMAGE)  # fmt: skip


def _numbers(table: bytes) -> array[int]:
    numbers = array("Q", table)
    numbers.byteswap()
    return numbers
