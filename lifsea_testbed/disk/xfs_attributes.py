"""Extended attributes as XFS stores them: in inodes, and in leaves of a tree of hashes (xfs_da_format.h)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

from lifsea_testbed.errors import DiskDamaged

#: The blocks of attributes that one file has at most.
MOST_BLOCKS = 4096
_IS_LOCAL, _ROOT, _SECURE, _INCOMPLETE, _PARENT = 0x1, 0x2, 0x4, 0x80, 0x8
_LEAVES, _NODES = (0xFBEE, 0x3BEE), (0xFEBE, 0x3EBE)
_REMOTE_HEADER, _LARGEST = 56, 65536

Attribute = tuple[str, bytes]


def local(raw: bytes) -> Iterator[Attribute]:
    """Yields names and values of the attributes in an inode."""
    count, at = raw[2] if len(raw) > 2 else 0, 4
    for _ in range(count):
        if at + 3 > len(raw):
            raise _damaged()
        length, size, flags = raw[at:at + 3]
        if not flags & (_INCOMPLETE | _PARENT):
            yield _name(flags, raw[at + 3:at + 3 + length]), raw[at + 3 + length:at + 3 + length + size]
        at += 3 + length + size


def of_blocks(places: Mapping[int, int], read: Callable[[int], bytes], has_sums: bool) -> Iterator[Attribute]:
    """Yields names and values of the attributes in blocks.

    Args:
        places: the place on the partition of each block of the attributes.
        read: returns the block at a place.
        has_sums: whether it is version 5 of XFS, whose blocks have longer headers with sums.
    """
    number, seen = _first_leaf(places, read, has_sums), set[int]()
    while number not in seen:
        seen.add(number)
        block = read(_place(places, number))
        if int.from_bytes(block[8:10], "big") not in _LEAVES:
            raise _damaged()
        yield from _leaf(block, places, read, has_sums)
        number = int.from_bytes(block[:4], "big")
        if not number:
            return
    raise _damaged()


def _first_leaf(places: Mapping[int, int], read: Callable[[int], bytes], has_sums: bool) -> int:
    number = 0
    for _ in range(8):
        block = read(_place(places, number))
        if int.from_bytes(block[8:10], "big") not in _NODES:
            return number
        number = int.from_bytes(block[(64 if has_sums else 16) + 4:][:4], "big")
    raise _damaged()


def _leaf(block: bytes, places: Mapping[int, int], read: Callable[[int], bytes], has_sums: bool) -> Iterator[Attribute]:
    count = int.from_bytes(block[56:58] if has_sums else block[12:14], "big")
    start = 80 if has_sums else 32
    if start + 8 * count > len(block):
        raise _damaged()
    for at in range(start, start + 8 * count, 8):
        place, flags = struct.unpack_from(">HB", block, at + 4)
        if place + 9 > len(block):
            raise _damaged()
        if flags & (_INCOMPLETE | _PARENT):
            continue
        if flags & _IS_LOCAL:
            size, length = struct.unpack_from(">HB", block, place)
            begin = place + 3
            yield _name(flags, block[begin:begin + length]), block[begin + length:begin + length + size]
        else:
            first, size, length = struct.unpack_from(">IIB", block, place)
            yield _name(flags, block[place + 9:place + 9 + length]), _remote(first, size, places, read, has_sums)


def _remote(number: int, size: int, places: Mapping[int, int], read: Callable[[int], bytes], has_sums: bool) -> bytes:
    """A value in blocks of its own."""
    value = bytearray()
    while len(value) < size <= _LARGEST:
        value += read(_place(places, number))[_REMOTE_HEADER if has_sums else 0:]
        number += 1
    return bytes(value[:size])


def _name(flags: int, raw: bytes) -> str:
    prefix = "trusted." if flags & _ROOT else "security." if flags & _SECURE else "user."
    return prefix + raw.decode("utf-8", "replace")


def _place(places: Mapping[int, int], number: int) -> int:
    if number not in places:
        raise _damaged()
    return places[number]


def _damaged() -> DiskDamaged:
    return DiskDamaged("the file system has attributes that contradict themselves", hint="run xfs_repair -n on that "
                       "partition")  # fmt: skip
