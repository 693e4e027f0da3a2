"""What every reader of a file system has in common: inodes by number, their content and names, within bounds."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason

#: The largest file that is read, and the largest directory (bytes); package databases are much smaller.
LARGEST_FILE, LARGEST_DIRECTORY = 256 << 20, 4 << 20
#: The bytes of a file that are read at a time.
PIECE = 4 << 20
#: The longest path that a symbolic link holds (PATH_MAX of Linux, without the byte that ends it).
LONGEST_LINK = 4095
#: The total bytes, and names, of directories that are read, counting repeated reads of the same directory.
_MOST_LISTED, _MOST_NAMES = 256 << 20, 1 << 20


@dataclass(frozen=True, kw_only=True)
class Inode:
    """A file of any kind: its number in its file system, `mode` and owner as in stat(2), `size` in bytes."""

    number: int
    mode: int
    user: int
    group: int
    size: int


N = TypeVar("N", bound=Inode)


class FileSystem(ABC, Generic[N]):
    """The file system on a partition, read-only: inodes by number, their content, the entries of directories.

    Every method raises DiskDamaged where a structure is inconsistent, and NotJudged where it is beyond a bound or uses
    a feature that is not supported.
    """

    #: The program that checks such a file system, and whether names that differ in case alone are one name.
    checker: ClassVar[str]
    ignores_case: ClassVar[bool] = False
    #: The inode of the topmost directory.
    root: int
    #: The bytes of all files together at most; None where files may share blocks, or are compressed.
    capacity: int | None = None
    #: What fstab(5) calls UUID (in lower case) and LABEL; empty where there is none.
    identifier: str = ""
    label: str = ""

    def __init__(self) -> None:
        self._listed_bytes = self._listed_names = 0

    @abstractmethod
    def inode(self, number: int) -> N:
        """Returns the inode with that number."""

    @abstractmethod
    def pieces(self, inode: N, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yields offset and content of the parts of a file between `start` and `end` that are no holes, in order.

        A part has at most 4 MiB.
        """

    @abstractmethod
    def attribute_values(self, inode: N) -> dict[str, bytes]:
        """Returns the values of a file's extended attributes by their names, sorted."""

    @abstractmethod
    def _target(self, inode: N) -> bytes:
        """The target of a symbolic link."""

    @abstractmethod
    def _rows(self, directory: N) -> Iterator[tuple[bytes, int]]:
        """The names in a directory with the numbers of their inodes; `.` and `..` may be among them."""

    def attributes(self, inode: N) -> list[str]:
        """Returns the names of a file's extended attributes, sorted."""
        return list(self.attribute_values(inode))

    def read(self, inode: N, limit: int = LARGEST_FILE) -> bytes:
        """Returns the whole content of a file; holes are zeros.

        Raises:
            NotJudged: it is larger than `limit` bytes.
        """
        if inode.size > limit:
            raise NotJudged(f"a file of {inode.size} bytes is not read offline; the limit is {limit}", Reason.IMAGE)
        return self.part(inode, 0, inode.size)

    def part(self, inode: N, offset: int, length: int) -> bytes:
        """Returns so many bytes of a file from that offset on, fewer where it ends."""
        length = max(0, min(length, inode.size - offset))
        content = bytearray(length)
        for start, piece in self.pieces(inode, offset, offset + length):
            content[start - offset:start - offset + len(piece)] = piece
        return bytes(content)

    def link_target(self, inode: N) -> str:
        """Returns the target of a symbolic link."""
        if inode.size > LONGEST_LINK:
            raise self.damaged(f"has a symbolic link of {inode.size} bytes; {LONGEST_LINK} are the most")
        return self._target(inode).decode("utf-8", "surrogateescape")

    def entries(self, directory: N) -> Iterator[tuple[str, int]]:
        """Yields the name and inode number of each entry except `.` and `..`."""
        if not stat.S_ISDIR(directory.mode):
            raise self.damaged(f"refers to inode {directory.number} as a directory, which it is not")
        self._listed_bytes += directory.size
        if self._listed_bytes > _MOST_LISTED:
            raise NotJudged(f"the directories hold more than {_MOST_LISTED} bytes: the rest is not read", Reason.IMAGE)
        if directory.size > LARGEST_DIRECTORY:
            raise NotJudged(f"a directory has {directory.size} bytes; at most {LARGEST_DIRECTORY} are read offline",
                            Reason.IMAGE)
        for name, number in self._rows(directory):
            self._listed_names += 1
            if self._listed_names > _MOST_NAMES:
                raise NotJudged(f"the directories hold more than {_MOST_NAMES} names: the rest is not read",
                                Reason.IMAGE)
            if name not in (b".", b".."):
                yield self._name(name), number

    @classmethod
    def damaged(cls, what: str) -> DiskDamaged:
        """Returns the error of a file system that has something wrong."""
        return DiskDamaged(f"the file system {what}", hint=f"run {cls.checker} on that partition")

    def _name(self, raw: bytes) -> str:
        if not raw or b"/" in raw or b"\0" in raw:
            raise self.damaged(f"has a file with the invalid name {raw!r}")
        return raw.decode("utf-8", "surrogateescape")
