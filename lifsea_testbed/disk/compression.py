"""Compressed blocks of file systems, each unpacked within a bound."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable

from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason

#: The memory of a decompressor of LZMA (bytes): dictionaries are no larger than blocks, of 1 MiB at most.
_LZMA_MEMORY = 64 << 20


def unpacked(kind: str, data: bytes, most: int) -> bytes:
    """Returns what was compressed by that algorithm, "zlib", "xz", or "lz4" as a block without a header.

    Raises:
        DiskDamaged: it is inconsistent, or unpacks to more than `most` bytes.
        NotJudged: the algorithm is another one.
    """
    require(kind)
    try:
        content = _ALGORITHMS[kind](data, most)
    except (zlib.error, lzma.LZMAError, IndexError, ValueError) as error:
        raise _damaged(f"a block compressed by {kind} cannot be unpacked: {error}") from None
    if len(content) > most:
        raise _damaged(f"a block compressed by {kind} holds more than {most} bytes")
    return content


def require(kind: str) -> None:
    """Makes sure that blocks compressed by that algorithm can be unpacked.

    Raises:
        NotJudged: they cannot.
    """
    if kind not in _ALGORITHMS:
        raise NotJudged(f"the file system is compressed by {kind}, which is not read offline", Reason.IMAGE)


def _zlib(data: bytes, most: int) -> bytes:
    return zlib.decompressobj().decompress(data, most + 1)


def _xz(data: bytes, most: int) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY).decompress(data, most + 1)


def _lz4(data: bytes, most: int) -> bytes:
    """LZ4's block format (lz4, doc/lz4_Block_format.md); the last sequence has literals alone."""
    out, at = bytearray(), 0
    while at < len(data):
        token, at = data[at], at + 1
        count, at = _lz4_length(data, at, token >> 4)
        if at + count > len(data):
            raise ValueError("literals behind its end")
        out += data[at:at + count]
        at += count
        if at >= len(data) or len(out) > most:
            break
        distance = int.from_bytes(data[at:at + 2], "little")
        count, at = _lz4_length(data, at + 2, token & 15)
        _lz4_copy(out, distance, count + 4, most)
    return bytes(out)


def _lz4_length(data: bytes, at: int, length: int) -> tuple[int, int]:
    if length == 15:
        while (more := data[at]) == 255:
            length, at = length + 255, at + 1
        length, at = length + more, at + 1
    return length, at


def _lz4_copy(out: bytearray, distance: int, count: int, most: int) -> None:
    if not 0 < distance <= len(out) or len(out) + count > most:
        raise ValueError("a match outside of the block")
    start = len(out) - distance
    if distance >= count:
        out += out[start:start + count]
    else:
        out += (out[start:] * (count // distance + 1))[:count]


def _damaged(what: str) -> DiskDamaged:
    return DiskDamaged(what, hint="copy the image again, compare digests")


_ALGORITHMS: dict[str, Callable[[bytes, int], bytes]] = {"zlib": _zlib, "xz": _xz, "lz4": _lz4}
