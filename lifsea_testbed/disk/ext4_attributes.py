"""Extended attributes as ext4 stores them, in inodes and in blocks of their own (fs/ext4/xattr.h)."""

from __future__ import annotations

import struct

_MAGIC = b"\x00\x00\x02\xea"
#: The name spaces of extended attributes, by their numbers on disk.
_PREFIXES = {1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
             7: "system."}  # fmt: skip


def parse(area: bytes, first: int, base: int) -> list[tuple[str, bytes | int]]:
    """Returns names and values of an area of attributes: a magic number, then entries up to one of zeros.

    Values lie at offsets from `base`; of one that lies in an inode of its own it is the number.
    """
    found: list[tuple[str, bytes | int]] = []
    if area[:4] != _MAGIC:
        return found
    while first + 16 <= len(area) and area[first:first + 4] != bytes(4):
        length, kind = area[first], area[first + 1]
        name = _PREFIXES.get(kind, f"{kind}:") + area[first + 16:first + 16 + length].decode("utf-8", "replace")
        offset, elsewhere, size = struct.unpack_from("<HII", area, first + 2)
        found.append((name, elsewhere or area[base + offset:base + offset + size]))
        first += 16 + (length + 3 & ~3)
    return found
