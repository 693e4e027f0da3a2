"""VMDK disks of one sparse file (VMware, Virtual Disk Format 5.0: Hosted Sparse Extents)."""

from __future__ import annotations

import functools
import re
import struct
from array import array
from dataclasses import dataclass

from lifsea_testbed.disk.source import BlockDisk, ByteSource
from lifsea_testbed.errors import DiskDamaged, ImageRefused

_SECTOR = 512
_HEADER = 79
_ZERO_GRAINS, _COMPRESSED, _MARKERS = 1 << 2, 1 << 16, 1 << 17
#: The characters that a transfer as text changes.
_NEWLINES = b"\n \r\n"
#: QEMU's bounds (block/vmdk.c): entries of a grain table, versions, and the descriptor that it searches for a parent
#: (vmdk_parent_open: 20 sectors at the second one), wherever the header says that the descriptor is.
_MOST_ENTRIES, _VERSIONS, _PARENT_IN = 512, (1, 2, 3), (_SECTOR, 20 * _SECTOR)
#: The largest disk (bytes): places in the file are numbers of sectors in 32 bits. The largest grain, the largest
#: directory of grain tables, the largest descriptor, and the grain tables that are cached.
_LARGEST, _LARGEST_GRAIN, _LARGEST_DIRECTORY, _LARGEST_DESCRIPTOR, _KEPT = 2 << 40, 16 << 20, 1 << 20, 1 << 20, 4096
_EXTENT = re.compile(rb"^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(\S+)", re.MULTILINE)
_CONVERT = "convert it: qemu-img convert -f vmdk -O qcow2 {file} {qcow2}"
_COPY = "copy it again, compare digests"


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The fields of a header; `capacity`, `grain` and all places are in sectors."""

    version: int
    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    entries: int
    directory: int
    is_open: bool
    newlines: bytes

    @property
    def tables(self) -> int:
        """The number of grain tables."""
        return -(-self.capacity // (self.grain * self.entries))


def sparse(file: ByteSource) -> ByteSource:
    """Returns the disk in a VMDK file of the kind monolithicSparse.

    Raises:
        DiskDamaged: its header or its directory is damaged.
        ImageRefused: it is of another kind, refers to another file, or was not closed.
    """
    header = _header(file.read_at(0, _HEADER))
    _require_whole(file, header)
    directory = _numbers(file, header.directory, header.tables)

    @functools.lru_cache(_KEPT)
    def table(number: int) -> array[int] | None:
        return _numbers(file, directory[number], header.entries) if directory[number] else None

    def place(number: int) -> int | None:
        found = table(number // header.entries)
        at = found[number % header.entries] if found else 0
        return None if at == 0 or (at == 1 and header.flags & _ZERO_GRAINS) else at * _SECTOR

    _require_grains(file, header, directory)
    return BlockDisk(file, size=header.capacity * _SECTOR, block=header.grain * _SECTOR, place=place)


def _header(data: bytes) -> _Header:
    (version, flags, capacity, grain, descriptor, length, entries, _, directory, _, is_open, newlines,
     compression) = struct.unpack("<4xIIQQQQIQQQ?4sH", data)  # fmt: skip
    header = _Header(version=version, flags=flags, capacity=capacity, grain=grain, descriptor=descriptor,
                     descriptor_size=length, entries=entries, directory=directory, is_open=is_open, newlines=newlines)
    if newlines != _NEWLINES or version not in _VERSIONS:
        raise DiskDamaged(f"the header of a VMDK of version {version} is damaged", hint=_COPY)
    if compression or flags & (_COMPRESSED | _MARKERS):
        raise ImageRefused("is a compressed VMDK (streamOptimized)", hint=_CONVERT)
    if not descriptor or not capacity:
        raise ImageRefused("is a VMDK of several files", hint=_CONVERT)
    if is_open:
        raise ImageRefused("is a VMDK that was not closed", hint=f"shut its machine down, or {_CONVERT}")
    if not (0 < grain * _SECTOR <= _LARGEST_GRAIN and 0 < entries <= _MOST_ENTRIES
            and capacity * _SECTOR <= _LARGEST and header.tables * 4 <= _LARGEST_DIRECTORY):  # fmt: skip
        raise DiskDamaged(f"a VMDK of {capacity} sectors in grains of {grain}, {entries} a table", hint=_COPY)
    return header


def _require_whole(file: ByteSource, header: _Header) -> None:
    """Makes sure that the descriptor names one sparse file, this one, and no parent."""
    length = header.descriptor_size * _SECTOR
    if not 0 < length <= _LARGEST_DESCRIPTOR:
        raise DiskDamaged(f"a VMDK with a descriptor of {length} bytes", hint=_COPY)
    text = file.read_at(header.descriptor * _SECTOR, length).partition(b"\0")[0]
    start, searched = _PARENT_IN
    if b"parentFileNameHint" in text + file.read_at(start, max(0, min(searched, file.size - start))):
        raise ImageRefused("is a VMDK that needs another disk, its parent", hint=_CONVERT)
    kind = re.search(rb'^\s*createType\s*=\s*"([^"\n]*)"', text, re.MULTILINE)
    if kind is None or kind[1] != b"monolithicSparse" or _EXTENT.findall(text) != [b"SPARSE"]:
        name = kind[1].decode("ascii", "replace") if kind else "unknown"
        raise ImageRefused(f"is a VMDK of another kind than monolithicSparse: {name}", hint=_CONVERT)


def _require_grains(file: ByteSource, header: _Header, directory: array[int]) -> None:
    """Makes sure that each grain lies in the file; the last one may be cut short, as the disk is."""
    most = file.size // _SECTOR - min(header.grain, (header.capacity - 1) % header.grain + 1)
    for at in directory:
        if at and max(_numbers(file, at, header.entries)) > most:
            raise DiskDamaged("a table of a VMDK has grains behind the end of the file", hint=_COPY)


def _numbers(file: ByteSource, place: int, count: int) -> array[int]:
    return array("I", file.read_at(place * _SECTOR, count * 4))
