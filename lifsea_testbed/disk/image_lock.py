"""Whether another program writes to an image, by QEMU's locks on single bytes of the file (QEMU block/file-posix.c)."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.support.sanitize import printable

#: Locked by who writes (100 + BLK_PERM_WRITE's bit) or resizes, and by who does not let others read (200 + the bit).
_WRITES, _RESIZES, _READS_ALONE = 101, 103, 200
#: struct flock on Linux: type, whence, start, length, process.
_FLOCK = "hhqqi4x"


def is_written(descriptor: int) -> bool:
    """Returns whether a QEMU program has the open file open for writing; one that only reads it, as we do, is none.

    Where the file system knows no locks, nothing is found.
    """
    return any(_is_locked(descriptor, byte) for byte in (_WRITES, _RESIZES, _READS_ALONE))


def users(descriptor: int) -> list[str]:
    """Returns the other processes that have the open file open, `NAME (PID)`, as far as /proc shows them to us."""
    status = os.fstat(descriptor)
    found = (place for place in _descriptors() if _is(place, status) and place.parts[2] != str(os.getpid()))
    return sorted({f"{_name(place.parents[1])} ({place.parts[2]})" for place in found})


def _is_locked(descriptor: int, byte: int) -> bool:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _descriptors() -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield from (process / "fd").iterdir()
        except OSError:  # another user's, or gone
            continue


def _is(place: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(place.stat(), status)
    except OSError:
        return False


def _name(process: Path) -> str:
    try:
        return printable((process / "comm").read_bytes().strip())
    except OSError:
        return "process"
