"""Random-access sources of bytes: a file of the host, or a part of another source."""

from __future__ import annotations

import os
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
    """A file of the host, open for reading within the context; several threads may read it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self.size = self._file.seek(0, 2)

    def __enter__(self) -> Self:
        """Returns the file itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Closes the file."""
        self._file.close()

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of the file."""
        within(self, offset, length, str(self._path))
        data = os.pread(self._file.fileno(), length, offset)
        if len(data) != length:
            raise DiskDamaged(f"{self._path} ends before byte {offset + length}", hint="copy it again, compare digests")
        return data


class Window:
    """A part of another source: a partition of a disk."""

    def __init__(self, source: ByteSource, offset: int, size: int) -> None:
        self._source, self._offset, self.size = source, offset, size

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of the part."""
        within(self, offset, length, "a partition")
        return self._source.read_at(self._offset + offset, length)


def within(source: ByteSource, offset: int, length: int, name: str) -> None:
    """Raises DiskDamaged unless the source holds these bytes."""
    if offset < 0 or length < 0 or offset + length > source.size:
        raise DiskDamaged(f"{name} has {source.size} bytes, and something on it refers to byte {offset + length}",
                          hint="copy the image again, compare digests")  # fmt: skip
