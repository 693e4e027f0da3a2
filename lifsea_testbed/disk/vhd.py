"""VHD disks, fixed and dynamic (Microsoft, Virtual Hard Disk Image Format Specification, version 1.0)."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

from lifsea_testbed.disk.image_formats import TAIL, VHD_MAGIC, vhd_footer
from lifsea_testbed.disk.source import BlockDisk, ByteSource, Window
from lifsea_testbed.errors import DiskDamaged, ImageRefused

#: The sizes of a sector, of a footer, and of the header of a dynamic disk (bytes).
_SECTOR, _FOOTER, _HEADER = 512, 512, 1024
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_UNUSED = 0xFFFF_FFFF
#: QEMU's bounds of a dynamic disk (block/vpc.c, VHD_MAX_SECTORS), and of its table here: blocks of 512 KiB.
_MOST_SECTORS, _LARGEST_TABLE = 0xFF00_0000, 16 << 20
#: What converts a dynamic disk whose end QEMU would cut off.
CONVERT = "convert it: qemu-img convert --image-opts -O qcow2 " \
          "driver=vpc,force_size_calc=current_size,file.filename={file} {qcow2}"  # fmt: skip
#: The largest geometry, and the programs whose disks QEMU takes for as large as their footers say (block/vpc.c,
#: vpc_open; vbox since version 10); a disk of any other program is as large as its geometry says.
_LARGEST_GEOMETRY = 65535 * 16 * 255
_SIZE_IN_FOOTER = (b"win ", b"qem2", b"d2v ", b"CTXS", b"tap", b"wa\0", b"vbox")
_COPY = "copy it again, compare digests"


@dataclass(frozen=True, kw_only=True)
class _Footer:
    """The fields of a footer: sizes in bytes, `header` the place of a dynamic disk's header in the file."""

    kind: int
    header: int
    creator: bytes
    size: int
    geometry: int

    @property
    def size_in_qemu(self) -> int:
        """The size of a dynamic disk, as QEMU shows it to a guest."""
        has_size = self.creator.startswith(_SIZE_IN_FOOTER) or self.geometry == _LARGEST_GEOMETRY
        return self.size // _SECTOR * _SECTOR if has_size else self.geometry * _SECTOR


def fixed(file: ByteSource) -> ByteSource:
    """Returns the disk in a fixed VHD: all of the file before its footer, as far as the footer says.

    Raises:
        DiskDamaged: the footer is damaged, or the file is too short.
        ImageRefused: it is no fixed VHD.
    """
    start = _end(file)
    footer = _footer(file.read_at(start, file.size - start), of="fixed")
    if footer.kind != _FIXED:
        raise ImageRefused(f"is a VHD of type {footer.kind} without a header", hint=_COPY)
    if footer.size > start or footer.size % _SECTOR:
        raise DiskDamaged(f"a fixed VHD of {footer.size} bytes in a file that has {start}", hint=_COPY)
    return Window(file, 0, footer.size)


def dynamic(file: ByteSource) -> ByteSource:
    """Returns the disk in a dynamic VHD, as large as QEMU shows it to a guest.

    Raises:
        DiskDamaged: footer, header or table are damaged, or the file is too short for the blocks in the table.
        ImageRefused: it refers to another file, or QEMU would cut the disk's end off.
    """
    footer = _footer(file.read_at(0, min(_FOOTER, file.size)), of="dynamic")
    if footer.kind != _DYNAMIC:
        what = "a differencing VHD, which needs another disk" if footer.kind == _DIFFERENCING else \
            f"a VHD of type {footer.kind}"  # fmt: skip
        raise ImageRefused(f"is {what}", hint="give --image a disk that is whole: merge it with the one that it names")
    _end(file)
    size = footer.size_in_qemu
    if size < footer.size // _SECTOR * _SECTOR:
        raise ImageRefused(f"is a VHD of {footer.size} bytes whose geometry has {size}: QEMU cuts the rest off",
                           hint=CONVERT)  # fmt: skip
    block, table = _table(file, footer.header, size)
    bitmap = -(-block // (_SECTOR * 8) // _SECTOR) * _SECTOR
    _require_blocks(file, table, bitmap + block)
    return BlockDisk(file, size=size, block=block,
                     place=lambda number: None if (at := table[number]) == _UNUSED else at * _SECTOR + bitmap)


def _end(file: ByteSource) -> int:
    """Where the footer begins that every VHD ends with."""
    length = min(TAIL, file.size)
    start = vhd_footer(file.read_at(file.size - length, length))
    if start is None:
        raise DiskDamaged("a VHD that does not end with its footer", hint=_COPY)
    return file.size - length + start


def _footer(data: bytes, *, of: str) -> _Footer:
    if len(data) < 85 or not data.startswith(VHD_MAGIC) or not _is_sound(data, 64):
        raise DiskDamaged(f"the footer of a {of} VHD is damaged", hint=_COPY)
    header, creator, size, cylinders, heads, sectors, kind = struct.unpack_from(">16xQ4x4s16xQHBBI", data)
    return _Footer(kind=kind, header=header, creator=creator, size=size, geometry=cylinders * heads * sectors)


def _table(file: ByteSource, place: int, size: int) -> tuple[int, array[int]]:
    """The size of a block, and the sector in the file of each block's bitmap, behind which its data is."""
    header = file.read_at(place, _HEADER)
    magic, at, entries, block = struct.unpack_from(">8s8xQ4xII", header)
    if magic != b"cxsparse" or not _is_sound(header, 36):
        raise DiskDamaged("the header of a dynamic VHD is damaged", hint=_COPY)
    if block < _SECTOR or block & (block - 1) or not 0 < size <= _MOST_SECTORS * _SECTOR:
        raise DiskDamaged(f"a dynamic VHD of {size} bytes in blocks of {block}", hint=_COPY)
    needed = -(-size // block)
    if entries < needed or needed * 4 > _LARGEST_TABLE:
        raise DiskDamaged(f"the table of a dynamic VHD has {entries} entries of {needed}", hint=_COPY)
    table = array("I", file.read_at(at, needed * 4))
    table.byteswap()
    return block, table


def _require_blocks(file: ByteSource, table: array[int], length: int) -> None:
    """Makes sure that the file holds each block in the table whole, and room for all of them."""
    used = [place for place in table if place != _UNUSED]
    if used and (max(used) * _SECTOR + length > file.size or len(used) * length > file.size):
        raise DiskDamaged("the table of a dynamic VHD has blocks behind the end of the file", hint=_COPY)


def _is_sound(data: bytes, place: int) -> bool:
    """Whether the checksum there is that of the data: the complement of the sum of all other bytes."""
    stored = struct.unpack_from(">I", data, place)[0]
    return bool(stored == ~(sum(data) - sum(data[place:place + 4])) & 0xFFFF_FFFF)
