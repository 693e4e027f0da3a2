"""The log of XFS, as far as whether it holds changes that are not in their places yet (xfs_log_format.h)."""

from __future__ import annotations

import struct

from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import NotJudged, Reason

_MAGIC, _SECTOR, _PIECE = b"\xfe\xed\xba\xbe", 512, 1 << 20
#: The bytes of a record that one sector of its header is for, and the flag of the operation that unmounting writes.
_PER_HEADER, _UNMOUNT = 32768, 0x20
#: Linux makes no log beyond 2 GiB.
_LARGEST = 2 << 30


def require_clean(source: ByteSource, start: int, size: int) -> None:
    """Makes sure that a log, `size` bytes from `start` on, is empty or ends with the record of unmounting.

    Raises:
        NotJudged: it holds changes, as where the system was not shut down, or is too large.
    """
    if size > _LARGEST:
        raise NotJudged(f"a log of {size} bytes is not read offline", Reason.IMAGE)
    newest, place = -1, -1
    for begin in range(start, start + size, _PIECE):
        piece = source.read_at(begin, min(_PIECE, start + size - begin))
        at = piece.find(_MAGIC)
        while at >= 0:
            sequence = int.from_bytes(piece[at + 16:at + 24], "big")
            if at % _SECTOR == 0 and sequence > newest:
                newest, place = sequence, begin + at
            at = piece.find(_MAGIC, at + 1)
    if place >= 0 and not _is_unmount(source, place, start, size):
        raise NotJudged("the log of XFS holds changes that are not in their places yet: the system was not shut down",
                        Reason.IMAGE)  # fmt: skip


def _is_unmount(source: ByteSource, place: int, start: int, size: int) -> bool:
    """Whether a record has one operation, and that is the one of unmounting."""
    header = source.read_at(place, _SECTOR)
    version, = struct.unpack_from(">I", header, 8)
    operations, = struct.unpack_from(">I", header, 40)
    largest, = struct.unpack_from(">I", header, 320)
    sectors = max(1, -(-largest // _PER_HEADER)) if version & 2 else 1
    behind = start + (place - start + sectors * _SECTOR) % size
    return operations == 1 and bool(source.read_at(behind, 12)[9] & _UNMOUNT)
