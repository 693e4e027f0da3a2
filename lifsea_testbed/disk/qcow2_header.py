"""The header of a qcow2 file (QEMU docs/interop/qcow2.txt)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from lifsea_testbed.support.sanitize import printable

MAGIC = b"QFI\xfb"
_FEATURE_NAMES = 0x6803F857
#: The largest virtual disk that is accepted: cloud disks of an ecs.g7 have at most 64 TiB (ESSD, block storage limits).
LARGEST = 64 << 40


class IncompatibleFeature(enum.IntFlag):
    """The incompatible features that QEMU 10 knows."""

    DIRTY = 1
    CORRUPT = 2
    EXTERNAL_DATA = 4
    COMPRESSION = 8
    EXTENDED_TABLES = 16


#: All of them, as a number, whose complement has the bits of all others.
KNOWN_FEATURES = sum(IncompatibleFeature)


@dataclass(frozen=True, kw_only=True)
class Qcow2Header:
    """The fields of a qcow2 header that decide whether the file is accepted."""

    version: int
    has_backing_file: bool
    virtual_size: int
    encrypted: bool
    incompatible: int


def parse_qcow2_header(head: bytes) -> Qcow2Header:
    """Parses the header of a qcow2 file from its first 104 bytes.

    Raises:
        ValueError: the bytes are too few, or not a qcow2 header of version 2 or 3.
    """
    try:
        magic, version, backing, _, _, size, crypt = struct.unpack_from(">4sIQIIQI", head)
        incompatible = struct.unpack_from(">Q", head, 72)[0] if version >= 3 else 0
    except struct.error:
        raise ValueError("the header is cut short") from None
    if magic != MAGIC or version not in (2, 3):
        raise ValueError(f"unknown qcow2 version {version}")
    return Qcow2Header(version=version, has_backing_file=backing != 0, virtual_size=size, encrypted=crypt != 0,
                       incompatible=incompatible)


def unknown_features(head: bytes) -> tuple[str, ...]:
    """Returns the incompatible features of a qcow2 file that QEMU 10 does not know.

    Each is `bit N`, with the name that the file's own table of feature names gives it, if it has one.
    """
    bits = parse_qcow2_header(head).incompatible & ~KNOWN_FEATURES
    names = _feature_names(head)
    return tuple(f"{names[bit]} (bit {bit})" if bit in names else f"bit {bit}" for bit in range(64) if bits >> bit & 1)


def _feature_names(head: bytes) -> dict[int, str]:
    """The names of incompatible features: rows of type, bit and 46 bytes of name, in a header extension."""
    place = struct.unpack_from(">I", head, 100)[0] if len(head) >= 104 else len(head)
    while place + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, place)
        if kind == _FEATURE_NAMES:
            table = head[place + 8:place + 8 + length]
            rows = (table[start:start + 48] for start in range(0, len(table), 48))
            return {row[1]: printable(row[2:].partition(b"\0")[0].decode("ascii", "replace")) for row in rows
                    if len(row) == 48 and row[0] == 0}
        place += 8 + -(-length // 8) * 8 if kind else len(head)
    return {}
