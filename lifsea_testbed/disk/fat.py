"""FAT12, FAT16 and FAT32 with long names, read-only, as on an ESP (Microsoft FAT specification 1.03, ECMA-107)."""

from __future__ import annotations

import functools
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lifsea_testbed.disk.inodes import LARGEST_DIRECTORY, PIECE, FileSystem, Inode
from lifsea_testbed.disk.source import ByteSource

#: Bytes of a directory entry, and of what is read of the table at a time.
_ENTRY, _PAGE = 32, 4096
#: Attributes of an entry: read-only, volume label, directory; all of the first four mean a part of a long name.
_READ_ONLY, _LABEL, _DIRECTORY, _LONG = 0x01, 0x08, 0x10, 0x0F
_LAST, _FREE, _END, _IS_E5 = 0x40, 0xE5, 0x00, 0x05
#: Which parts of a name are shown in lower case (linux/msdos_fs.h, CASE_LOWER_BASE and CASE_LOWER_EXT).
_LOWER_BASE, _LOWER_SUFFIX = 0x08, 0x10
#: The most clusters of FAT12 and FAT16 (linux/msdos_fs.h: MAX_FAT12, MAX_FAT16).
_MOST_12, _MOST_16 = 0xFF4, 0xFFF4
_MOST_PARTS = 20
#: What Linux and mkfs.fat write where there is no label.
_NO_LABEL = "NO NAME"


@dataclass(frozen=True, kw_only=True)
class FatInode(Inode):
    """A file: its number is the place of its directory entry in bytes, 0 for the topmost directory.

    Modes and owners are those that Linux shows by default: root's, 0755. `cluster` is the first one, 0 for none.
    """

    cluster: int


@dataclass(frozen=True, kw_only=True)
class FatLayout:
    """The fields of a boot sector that locate files: `bits` of an entry of the table, places and sizes in bytes."""

    bits: int
    cluster_size: int
    table: int
    table_size: int
    directory: int
    directory_size: int
    data: int
    clusters: int
    first_cluster: int
    identifier: str
    label: str


class Fat(FileSystem[FatInode]):
    """The file system on a partition: FAT12, FAT16 or FAT32.

    Raises:
        DiskDamaged: a structure is inconsistent.
    """

    checker, ignores_case, root = "fsck.fat -n", True, 0

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source
        self.layout = parse_boot_sector(source.read_at(0, 512))
        end = self.layout.data + self.layout.clusters * self.layout.cluster_size
        if end > source.size:
            raise self.damaged(f"ends {end - source.size} bytes behind its partition")
        self.capacity = self.layout.clusters * self.layout.cluster_size
        self._page = functools.lru_cache(256)(self._read_page)
        self.identifier = self.layout.identifier
        self.label = self._label() or self.layout.label

    def inode(self, number: int) -> FatInode:
        """Returns the file whose directory entry begins at that byte of the partition, or the topmost directory."""
        if number == 0:
            size = self.layout.directory_size or self._chain_size(self.layout.first_cluster)
            return _inode(0, stat.S_IFDIR, size, self.layout.first_cluster)
        raw = self._source.read_at(number, _ENTRY)
        kind = raw[11]
        cluster, size = _cluster(raw) & 0x0FFFFFFF, struct.unpack_from("<I", raw, 28)[0]
        if kind & _DIRECTORY:
            if not cluster:
                raise self.damaged("has a directory without a cluster")
            return _inode(number, stat.S_IFDIR, self._chain_size(cluster), cluster)
        return _inode(number, stat.S_IFREG, size, cluster, 0o555 if kind & _READ_ONLY else 0o755)

    def pieces(self, inode: FatInode, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yields offset and content of the parts of a file between `start` and `end`, in order, of at most 4 MiB."""
        at, end = 0, inode.size if end is None else min(end, inode.size)
        for place, length in self._runs(inode):
            first, last = max(start, at), min(end, at + length)
            for offset in range(first, last, PIECE):
                yield offset, self._source.read_at(place + offset - at, min(PIECE, last - offset))
            at += length
            if at >= end:
                return
        if at < end:
            raise self.damaged(f"has a file of {inode.size} bytes whose clusters end after {at}")

    def attribute_values(self, inode: FatInode) -> dict[str, bytes]:
        """Returns nothing: FAT keeps no extended attributes."""
        return {}

    def _target(self, inode: FatInode) -> bytes:
        raise self.damaged("has no symbolic links")

    def _rows(self, directory: FatInode) -> Iterator[tuple[bytes, int]]:
        long: list[bytes] = []
        for place, raw in self._raw_entries(directory):
            if raw[11] & 0x3F == _LONG:
                long = [*(long if not raw[0] & _LAST else []), raw][-_MOST_PARTS:]
            elif raw[11] & _LABEL:
                long = []
            else:
                yield (_long_name(long, raw) or _short_name(raw)).encode("utf-8", "surrogateescape"), place
                long = []

    def _label(self) -> str:
        labels = (raw[:11] for _, raw in self._raw_entries(self.inode(0))
                  if raw[11] & _LABEL and raw[11] & 0x3F != _LONG)  # fmt: skip
        return next((raw.decode("cp437").rstrip() for raw in labels), "")

    def _raw_entries(self, directory: FatInode) -> Iterator[tuple[int, bytes]]:
        """The entries that are in use, each with its place on the partition."""
        left = min(directory.size, LARGEST_DIRECTORY)
        for place, length in self._runs(directory):
            content = self._source.read_at(place, min(length, left))
            for start in range(0, len(content) - _ENTRY + 1, _ENTRY):
                if content[start] == _END:
                    return
                if content[start] != _FREE:
                    yield place + start, content[start:start + _ENTRY]
            left -= len(content)
            if not left:
                return

    # Below are clusters.

    def _runs(self, inode: FatInode) -> Iterator[tuple[int, int]]:
        """Yields place and length in bytes of the runs of clusters that follow each other on the partition."""
        if inode.number == 0 and self.layout.directory_size:
            yield self.layout.directory, self.layout.directory_size
            return
        first = length = 0
        for cluster in self._chain(inode.cluster) if inode.size else ():
            if length and (cluster != first + length or length * self.layout.cluster_size >= PIECE):
                yield self._place(first, length)
                length = 0
            first, length = (first, length + 1) if length else (cluster, 1)
        if length:
            yield self._place(first, length)

    def _place(self, cluster: int, count: int) -> tuple[int, int]:
        return self.layout.data + (cluster - 2) * self.layout.cluster_size, count * self.layout.cluster_size

    def _chain_size(self, cluster: int) -> int:
        """The bytes of a directory, which has no size of its own; more than are read where it is larger."""
        size = 0
        for _ in self._chain(cluster):
            size += self.layout.cluster_size
            if size > LARGEST_DIRECTORY:
                break
        return size

    def _chain(self, cluster: int) -> Iterator[int]:
        end = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self.layout.bits]
        for _ in range(self.layout.clusters):
            if cluster == 0 or cluster >= end:
                return
            if not 2 <= cluster < self.layout.clusters + 2:
                raise self.damaged(f"refers to cluster {cluster} of {self.layout.clusters}")
            yield cluster
            if (cluster := self._next(cluster)) == 0:
                raise self.damaged("has a file with a cluster that is free")
        if cluster < end:
            raise self.damaged("has a chain of clusters without an end")

    def _next(self, cluster: int) -> int:
        if self.layout.bits == 12:
            pair = self._table(cluster + cluster // 2, 2)
            return (pair >> 4 if cluster % 2 else pair) & 0xFFF
        width = self.layout.bits // 8
        return self._table(cluster * width, width) & 0x0FFFFFFF

    def _table(self, place: int, width: int) -> int:
        raw = b"".join(self._page(at // _PAGE)[at % _PAGE:at % _PAGE + 1] for at in range(place, place + width))
        return int.from_bytes(raw, "little")

    def _read_page(self, number: int) -> bytes:
        start = number * _PAGE
        return self._source.read_at(self.layout.table + start, min(_PAGE, self.layout.table_size - start))


def is_fat(source: ByteSource) -> bool:
    """Returns whether a partition holds FAT12, FAT16 or FAT32, by the fields of its boot sector."""
    if source.size < 512:
        return False
    raw = source.read_at(0, 512)
    sector, per_cluster, reserved, tables = struct.unpack_from("<HBHB", raw, 11)
    return raw[510:] == b"\x55\xaa" and raw[0] in (0xE9, 0xEB) and sector in (512, 1024, 2048, 4096) \
        and per_cluster.bit_count() == 1 and reserved > 0 and tables in (1, 2) and raw[21] >= 0xF0  # fmt: skip


def parse_boot_sector(raw: bytes) -> FatLayout:
    """Parses the boot sector of a file system that `is_fat` recognises.

    As in Linux it is FAT32 where the 16-bit size of the table is 0 (fs/fat/inode.c, fat_fill_super).

    Raises:
        DiskDamaged: it is inconsistent.
    """
    sector, per_cluster, reserved, tables, entries, total, _, size = struct.unpack_from("<HBHBHHBH", raw, 11)
    total = total or struct.unpack_from("<I", raw, 32)[0]
    wide = size == 0
    size = size or struct.unpack_from("<I", raw, 36)[0]
    directory = (reserved + tables * size) * sector
    data = directory + -(-entries * _ENTRY // sector) * sector
    clusters = (total * sector - data) // (sector * per_cluster)
    bits = 32 if wide else 16 if clusters > _MOST_12 else 12
    if clusters <= 0 or (clusters + 2) * bits > 8 * size * sector or (bits == 16 and clusters > _MOST_16) \
            or wide == bool(entries):  # fmt: skip
        raise Fat.damaged("has an inconsistent boot sector")
    serial, label = struct.unpack_from("<I11s", raw, 67 if wide else 39)
    return FatLayout(bits=bits, cluster_size=sector * per_cluster, table=reserved * sector, table_size=size * sector,
                     directory=directory, directory_size=entries * _ENTRY, data=data, clusters=clusters,
                     first_cluster=struct.unpack_from("<I", raw, 44)[0] if wide else 0,
                     identifier=f"{serial >> 16:04x}-{serial & 0xFFFF:04x}",
                     label=label.decode("cp437").rstrip("\0 ").removeprefix(_NO_LABEL))  # fmt: skip


def _inode(number: int, kind: int, size: int, cluster: int, mode: int = 0o755) -> FatInode:
    return FatInode(number=number, mode=kind | mode, user=0, group=0, size=size, cluster=cluster)


def _cluster(raw: bytes) -> int:
    high, low = struct.unpack_from("<H4xH", raw, 20)
    return int(high << 16 | low)


def _long_name(parts: list[bytes], entry: bytes) -> str:
    """The long name before an entry; nothing where its parts belong to another, as after a change by an old system."""
    if not parts or [raw[0] & 0x3F for raw in parts] != list(range(len(parts), 0, -1)):
        return ""
    if any(raw[13] != _checksum(entry[:11]) for raw in parts):
        return ""
    units = b"".join(raw[1:11] + raw[14:26] + raw[28:32] for raw in reversed(parts))
    return units.decode("utf-16-le", "replace").partition("\0")[0]


def _checksum(name: bytes) -> int:
    total = 0
    for byte in name:
        total = ((total & 1) << 7 | total >> 1) + byte & 0xFF
    return total


def _short_name(entry: bytes) -> str:
    raw = b"\xe5" + entry[1:11] if entry[0] == _IS_E5 else entry[:11]
    base, suffix = (part.decode("cp437").rstrip() for part in (raw[:8], raw[8:]))
    base = base.lower() if entry[12] & _LOWER_BASE else base
    suffix = suffix.lower() if entry[12] & _LOWER_SUFFIX else suffix
    return f"{base}.{suffix}" if suffix else base
