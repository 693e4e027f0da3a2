"""A tree of files as a running system sees it: a root, file systems mounted on it, links resolved inside it."""

from __future__ import annotations

import fnmatch
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lifsea_testbed.disk.inodes import LARGEST_FILE, FileSystem, Inode
from lifsea_testbed.errors import NotJudged, Reason

#: The links that one path leads through at most, as in Linux (MAXSYMLINKS), and its components with theirs: Linux
#: bounds the length of each path by PATH_MAX, 4096 bytes, of which every second may be a slash.
_MOST_LINKS, _MOST_STEPS, _MOST_MATCHES = 40, 2048, 1000
#: The bounds of a walk, so that it ends on a hostile disk: an OS of 200 packages has some 20,000 entries, a server's
#: distribution 40,000.
MOST_ENTRIES, DEEPEST = 200_000, 256


@dataclass(frozen=True, kw_only=True)
class TreeEntry:
    """A file of any kind: its file system and its inode."""

    file_system: FileSystem[Any]
    inode: Inode

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.inode.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.inode.mode)

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.inode.mode)

    def read(self, limit: int = LARGEST_FILE) -> bytes:
        """Returns the whole content of a file, of at most `limit` bytes."""
        return self.file_system.read(self.inode, limit)

    def part(self, offset: int, length: int) -> bytes:
        """Returns so many bytes of a file from that offset on, fewer where it ends."""
        return self.file_system.part(self.inode, offset, length)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yields offset and content of the parts of a file that are no holes, in order."""
        return self.file_system.pieces(self.inode)


def root_of(file_system: FileSystem[Any]) -> TreeEntry:
    """Returns the topmost directory of a file system."""
    return entry_of(file_system, file_system.root)


class Tree:
    """The files below a root, with other trees mounted on its paths; no link and no `..` leads out of it.

    `unread` names the parts of the disk that hold something and are in none of the trees.
    """

    def __init__(self, root: TreeEntry, mounts: Mapping[PurePosixPath, TreeEntry] | None = None) -> None:
        self.unread: tuple[str, ...] = ()
        self._root = root
        self._mounts = dict(mounts or {})
        self._mount_names = {path.name for path in self._mounts}
        self._beside: list[PurePosixPath] = []
        self._directories: dict[tuple[int, int], dict[str, int]] = {}

    def mounted(self, mounts: Mapping[PurePosixPath, TreeEntry]) -> Tree:
        """Returns the same tree with further mounts."""
        return Tree(self._root, {**self._mounts, **mounts})

    def beside(self, others: Mapping[str, TreeEntry], unread: Sequence[str]) -> Tree:
        """Returns the same tree with others below names in its root, which a walk goes through as well."""
        named = {PurePosixPath("/", name): place for name, place in others.items()}
        tree = self.mounted(named)
        tree._beside, tree.unread = list(named), tuple(unread)
        return tree

    def find(self, path: str | PurePosixPath, *, follow: bool = True) -> TreeEntry | None:
        """Returns the file at that path, or None; links are followed, a final one only with `follow`."""
        return self._resolve(PurePosixPath(path), follow=follow)[1]

    def real_path(self, path: str | PurePosixPath) -> PurePosixPath:
        """Returns the path without links, as readlink -f would: its last component need not exist."""
        return self._resolve(PurePosixPath(path), follow=True)[0]

    def read(self, path: str | PurePosixPath, limit: int = LARGEST_FILE) -> bytes | None:
        """Returns the content of a regular file, or None if there is none.

        Raises:
            NotJudged: it is larger than `limit` bytes.
        """
        place = self.find(path)
        if place is None or not place.is_regular:
            return None
        if place.inode.size > limit:
            raise NotJudged(f"{path} has {place.inode.size} bytes; at most {limit} are read offline", Reason.IMAGE)
        return place.read(limit)

    def names(self, path: str | PurePosixPath) -> list[str]:
        """Returns the names in a directory, sorted; none if there is no such directory."""
        place = self.find(path)
        return sorted(self._entries(place)) if place and place.is_directory else []

    def glob(self, pattern: str) -> list[PurePosixPath]:
        """Returns the paths that match, sorted; `*` stands for any characters but the slash.

        Raises:
            NotJudged: there are too many.
        """
        found = [PurePosixPath("/")]
        for part in PurePosixPath(pattern).parts[1:]:
            found = [directory / name for directory in found for name in self._matching(directory, part)]
            if len(found) > _MOST_MATCHES:
                raise NotJudged(f"more than {_MOST_MATCHES} paths match {pattern}: they are not read", Reason.IMAGE)
        return found

    def walk(self, without: Collection[PurePosixPath] = ()) -> Iterator[tuple[PurePosixPath, TreeEntry]]:
        """Yields every path but the root, with its file, except paths at or below `without`; links are not followed.

        Raises:
            NotJudged: there are too many entries, or directories are nested too deeply.
        """
        waiting = [(PurePosixPath("/"), self._root), *((path, self._mounts[path]) for path in self._beside)]
        seen = 0
        while waiting:
            directory, place = waiting.pop()
            if len(directory.parts) > DEEPEST:
                raise NotJudged(f"directories are nested deeper than {DEEPEST} levels: the rest is not read",
                                Reason.IMAGE)
            for path, below in self._below(directory, place, without):
                if (seen := seen + 1) > MOST_ENTRIES:
                    raise NotJudged(f"the disk has more than {MOST_ENTRIES} entries: the rest is not read",
                                    Reason.IMAGE)
                yield path, below
                if below.is_directory:
                    waiting.append((path, below))

    def _below(self, directory: PurePosixPath, place: TreeEntry,
               without: Collection[PurePosixPath]) -> Iterator[tuple[PurePosixPath, TreeEntry]]:
        special = self._mount_names.union(path.name for path in without)
        for name, number in place.file_system.entries(place.inode):
            path = directory / name
            if name not in special:
                yield path, entry_of(place.file_system, number)
            elif path not in without:
                yield path, self._mounts.get(path) or entry_of(place.file_system, number)

    def _matching(self, directory: PurePosixPath, pattern: str) -> list[str]:
        if "*" not in pattern:
            return [pattern] if self.find(directory / pattern) else []
        place = self.find(directory)
        fold = str.casefold if place and place.file_system.ignores_case else str
        return [name for name in self.names(directory) if fnmatch.fnmatchcase(fold(name), fold(pattern))]

    def _resolve(self, path: PurePosixPath, *, follow: bool) -> tuple[PurePosixPath, TreeEntry | None]:
        waiting, at, links = _backwards(path), [("/", self._root)], 0
        for _ in range(_MOST_STEPS):
            if not waiting:
                break
            name = waiting.pop()
            if name == "..":
                at = at[:-1] or at
                continue
            here, place = at[-1]
            below = self._child(here, place, name)
            if below is None or links > _MOST_LINKS:
                return PurePosixPath(here, name, *reversed(waiting)), None
            if below.is_link and (waiting or follow):
                target = below.file_system.link_target(below.inode)
                links += 1
                waiting += _backwards(PurePosixPath(target))
                del at[1 if target.startswith("/") else len(at):]
            else:
                at.append((f"{here.rstrip('/')}/{name}", below))
        here, place = at[-1]
        return (PurePosixPath(here, *reversed(waiting)), None) if waiting else (PurePosixPath(here), place)

    def _child(self, here: str, place: TreeEntry, name: str) -> TreeEntry | None:
        if name in self._mount_names and (mounted := self._mounts.get(PurePosixPath(here, name))):
            return mounted
        number = self._number(place, name) if place.is_directory else None
        return None if number is None else entry_of(place.file_system, number)

    def _number(self, directory: TreeEntry, name: str) -> int | None:
        entries = self._entries(directory)
        if name in entries or not directory.file_system.ignores_case:
            return entries.get(name)
        folded = name.casefold()
        return next((number for known, number in entries.items() if known.casefold() == folded), None)

    def _entries(self, place: TreeEntry) -> dict[str, int]:
        key = id(place.file_system), place.inode.number
        if key not in self._directories:
            self._directories[key] = dict(place.file_system.entries(place.inode))
        return self._directories[key]


def entry_of(file_system: FileSystem[Any], number: int) -> TreeEntry:
    """Returns the file of a file system whose inode has that number."""
    return TreeEntry(file_system=file_system, inode=file_system.inode(number))


def _backwards(path: PurePosixPath) -> list[str]:
    return [part for part in reversed(path.parts) if not part.startswith("/")]
