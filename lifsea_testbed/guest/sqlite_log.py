"""The write-ahead log of an SQLite database, applied in memory (SQLite, Database File Format, 4, The Write-Ahead Log).

SQLite itself applies a log to a database in files alone, of which a confined reader has none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HEADER, _FRAME = 32, 24
#: The magic number of a log whose checksums are sums of little-endian words; one more means big-endian.
_MAGIC = 0x377F0682
#: Where a database states its versions of writing and reading (1: rollback journal, 2: log), and its size in pages.
_VERSIONS, _SIZE = 18, 28
_SMALLEST, _LARGEST = 512, 65536


def applied(database: bytes, log: bytes) -> bytes:
    """Returns the database with the transactions that its log has whole, marked as one that has no log."""
    pages = bytearray(database)
    if len(pages) >= 100 and len(log) >= _HEADER:
        committed = _committed(log, limit=len(database) + len(log))
        for number, content in committed.items():
            place = (number - 1) * len(content)
            pages.extend(bytes(max(0, place + len(content) - len(pages))))
            pages[place:place + len(content)] = content
    pages[_VERSIONS:_VERSIONS + 2] = b"\1\1" if pages[_VERSIONS:_VERSIONS + 2] == b"\2\2" \
        else pages[_VERSIONS:_VERSIONS + 2]  # fmt: skip
    return bytes(pages)


def _committed(log: bytes, *, limit: int) -> dict[int, bytes]:
    """The pages of all whole transactions, by number; none where the database would become larger than `limit`."""
    magic, _, size = struct.unpack_from(">III", log)
    if magic not in (_MAGIC, _MAGIC + 1) or size & (size - 1) or not _SMALLEST <= size <= _LARGEST:
        return {}
    committed, pending = dict[int, bytes](), dict[int, bytes]()
    for number, pages, content in _frames(log, size, ">" if magic & 1 else "<"):
        if not 0 < number <= limit // size:
            return committed
        pending[number] = content
        if pages:
            committed |= pending
            pending.clear()
    return committed


def _frames(log: bytes, size: int, order: str) -> Iterator[tuple[int, int, bytes]]:
    """Yields page number, size of the database after a commit, and content, of the frames that are sound."""
    salts, sums = log[16:24], _summed((0, 0), log[:24], order)
    if sums != struct.unpack_from(">II", log, 24):
        return
    for place in range(_HEADER, len(log) - _FRAME - size + 1, _FRAME + size):
        head, content = log[place:place + _FRAME], log[place + _FRAME:place + _FRAME + size]
        sums = _summed(_summed(sums, head[:8], order), content, order)
        if head[8:16] != salts or sums != struct.unpack_from(">II", head, 16):
            return
        yield *struct.unpack_from(">II", head), content


def _summed(sums: tuple[int, int], data: bytes, order: str) -> tuple[int, int]:
    """The checksum of further bytes; their number is a multiple of eight."""
    first, second = sums
    for one, other in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
