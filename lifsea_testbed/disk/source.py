"""Random-access sources of bytes: a file of the host, or a part of another source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from lifsea_testbed.errors import DiskDamaged


class ByteSource(Protocol):
    """Bytes that can be read at any offset; `size` is in bytes."""

    @property
    def size(self) -> int:
        """The number of bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes; raises DiskDamaged where the source ends earlier."""
        ...


class RawFile:
    """A file of the host, by its path or an open descriptor, for reading within the context, by several threads."""

    def __init__(self, file: Path | int) -> None:
        self._name = "the image" if isinstance(file, int) else str(file)
        self.descriptor = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._is_own = not isinstance(file, int)
        self.size = os.fstat(self.descriptor).st_size

    def __enter__(self) -> Self:
        """Returns the file itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Closes a file that was opened by its path."""
        if self._is_own:
            os.close(self.descriptor)

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of the file."""
        within(self, offset, length, self._name)
        data = os.pread(self.descriptor, length, offset)
        if len(data) != length:
            raise DiskDamaged(f"{self._name} ends before byte {offset + length}", hint="copy it again, compare digests")
        return data


class Window:
    """A part of another source: a partition of a disk."""

    def __init__(self, source: ByteSource, offset: int, size: int) -> None:
        self._source, self._offset, self.size = source, offset, size

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of the part."""
        within(self, offset, length, "a partition")
        return self._source.read_at(self._offset + offset, length)


class BlockDisk:
    """A disk that lies in a file block by block: `place` returns the offset in the file of a block, None for zeros.

    `size` and `block`, the size of all blocks, are in bytes; the last block may be cut short by the disk's end.
    """

    def __init__(self, file: ByteSource, *, size: int, block: int, place: Callable[[int], int | None]) -> None:
        self.size = size
        self._file, self._block, self._place = file, block, place

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of the disk."""
        within(self, offset, length, "the disk")
        parts = []
        while length > 0:
            number, inside = divmod(offset, self._block)
            part = min(length, self._block - inside)
            place = self._place(number)
            parts.append(bytes(part) if place is None else self._file.read_at(place + inside, part))
            offset, length = offset + part, length - part
        return b"".join(parts)


def within(source: ByteSource, offset: int, length: int, name: str) -> None:
    """Raises DiskDamaged unless the source holds these bytes."""
    if offset < 0 or length < 0 or offset + length > source.size:
        raise DiskDamaged(f"{name} has {source.size} bytes, and something on it refers to byte {offset + length}",
                          hint="copy the image again, compare digests")  # fmt: skip
