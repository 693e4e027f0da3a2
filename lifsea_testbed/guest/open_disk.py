"""An open disk in the process of a confined reader: the system that boots next from it, its files, their texts."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from lifsea_testbed.disk import layers
from lifsea_testbed.disk.filesystem import Tree, TreeEntry
from lifsea_testbed.disk.os_root import OsRoot, os_root
from lifsea_testbed.disk.source import ByteSource, RawFile
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.files import NOT_OF_THE_SYSTEM

#: Where a running system has file systems of the kernel, or memory, mounted.
_HIDDEN = ("/proc", "/sys", "/dev", "/run")
#: The largest text that is read (bytes), and all of one question.
TEXT_SIZE, TEXTS_SIZE = 1 << 20, 16 << 20
#: The bytes of files that are searched in one question.
_MOST_SEARCHED = 16 << 30


class OpenDisk:
    """A disk in files that are open, and the system on it; everything is read when it is first needed."""

    def __init__(self, form: str, descriptors: Sequence[int]) -> None:
        self._form, self._descriptors = form, descriptors

    @functools.cached_property
    def content(self) -> ByteSource:
        """The content of the disk."""
        return layers.opened(self._form, [RawFile(number) for number in self._descriptors])

    @functools.cached_property
    def root(self) -> OsRoot:
        """The root file system that boots next."""
        return os_root(self.content)

    @property
    def tree(self) -> Tree:
        """The files of the system."""
        return self.root.tree

    @functools.cached_property
    def listed(self) -> dict[PurePosixPath, TreeEntry]:
        """Every regular file of the system, sorted by path."""
        without = {path for pattern in NOT_OF_THE_SYSTEM for path in self.tree.glob(pattern)}
        found = self.tree.walk(without | set(map(PurePosixPath, _HIDDEN)))
        return dict(sorted(((path, place) for path, place in found if place.is_regular), key=lambda pair: pair[0]))

    def require_all_read(self) -> None:
        """Makes sure that everything on the disk can be read, so that what was not found is not there.

        Raises:
            NotJudged: a part of the disk cannot be read.
        """
        if self.tree.unread:
            raise NotJudged(f"a part of the disk cannot be read offline: {'; '.join(self.tree.unread)}", Reason.IMAGE)

    def complete(self, found: Iterable[str]) -> list[str]:
        """Returns what was found, sorted; nothing found counts only where everything was read."""
        paths = sorted(found)
        if not paths:
            self.require_all_read()
        return paths

    def texts(self, patterns: Iterable[str]) -> dict[str, str]:
        """Returns the texts of the files that match one of the patterns, by path."""
        found, left = dict[str, str](), TEXTS_SIZE
        for path in (path for pattern in patterns for path in self.tree.glob(pattern)):
            content = self.tree.read(path, TEXT_SIZE)
            if content is not None:
                if (left := left - len(content)) < 0:
                    raise NotJudged(f"the files of text hold more than {TEXTS_SIZE} bytes together: {path} and "
                                    "further ones are not read", Reason.IMAGE)
                found[str(path)] = content.decode("utf-8", "replace")
        return found


class SearchBudget:
    """What a question may read of the content of files: no more than the file system has blocks for."""

    def __init__(self) -> None:
        self._read: dict[int, int] = {}

    def windows(self, path: PurePosixPath, place: TreeEntry, overlap: int) -> Iterator[bytes]:
        """Yields the content of a file, without holes, in pieces that begin with `overlap` bytes of the one before."""
        behind, end = b"", 0
        for offset, piece in place.pieces():
            self._spend(path, place, len(piece))
            whole = (behind if offset == end else b"") + piece
            yield whole
            behind, end = whole[-overlap:], offset + len(piece)

    def _spend(self, path: PurePosixPath, place: TreeEntry, count: int) -> None:
        system = place.file_system
        read = self._read[id(system)] = self._read.get(id(system), 0) + count
        if system.capacity is not None and read > system.capacity:
            raise system.damaged(f"holds fewer bytes than its files up to {path}: they share blocks")
        if sum(self._read.values()) > _MOST_SEARCHED:
            raise NotJudged(f"the files hold more than {_MOST_SEARCHED} bytes together: {path} and further ones are "
                            "not read", Reason.IMAGE)  # fmt: skip
