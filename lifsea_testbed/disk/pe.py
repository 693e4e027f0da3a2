"""The sections of a PE file, as EFI programs and unified kernel images are, by its start (Microsoft PE format)."""

from __future__ import annotations

import struct

#: The bytes at the start of a PE file that hold its table of sections, and the length of a row.
HEAD, _ROW = 4096, 40


def sections(start: bytes) -> dict[str, tuple[int, int]]:
    """Returns offset and size in the file of each section, by name; nothing where it is no PE file.

    The size is that of the content, without what fills it up to the alignment of the file.
    """
    if start[:2] != b"MZ" or len(start) < 64:
        return {}
    header, = struct.unpack_from("<I", start, 0x3C)
    if start[header:header + 4] != b"PE\0\0" or header + 24 > len(start):
        return {}
    count, optional = struct.unpack_from("<H12xH", start, header + 6)
    first = header + 24 + optional
    found: dict[str, tuple[int, int]] = {}
    for place in range(first, min(first + count * _ROW, len(start) - _ROW + 1), _ROW):
        name, used, size, offset = struct.unpack_from("<8sI4xII", start, place)
        found.setdefault(name.rstrip(b"\0").decode("ascii", "replace"), (offset, min(used, size)))
    return found
