"""The objects of an ostree repository of mode bare, read from a disk: whether deployed files are those of their commit.

Every object has the name of its content (SHA-256), from the commit down to each file, so that the name of a deployment
answers for all of it. Sources: libostree, ostree-core.h, for the objects' types, and ostree-core.c for what is hashed;
GVariant's specification for their form: the ends of members of variable size are listed at the end, the last first.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from lifsea_testbed.disk.filesystem import Tree, TreeEntry
from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason

_OBJECTS = "/sysroot/ostree/repo/objects"
_DEPLOYMENTS = "/sysroot/ostree/deploy/*/deploy/*"
_DEPLOYMENT = re.compile(r"([0-9a-f]{64})\.\d+")
_DIGEST = 32
#: The largest object that is a list (bytes): a directory of a hundred thousand files.
_LARGEST = 16 << 20
_DEEPEST = 64


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A directory of a commit: the names of its files and of its directories, each with the checksum of its object."""

    files: dict[str, str]
    directories: dict[str, str]


def changed_files(tree: Tree) -> list[str]:
    """Returns the files below /usr that are not those of the deployed commit, as ostree names them, sorted.

    A for an added file, M for one that differs in a byte, its mode, owner or attributes, D for a missing one.

    Raises:
        NotJudged: the system is no deployment of ostree, or its repository is not of mode bare.
        DiskDamaged: an object is missing, or is not what its name says.
    """
    top = listing(_object(tree, commit_root(_object(tree, _deployed(tree), "commit")), "dirtree"))
    if "usr" not in top.directories:
        raise NotJudged("the deployed commit has no /usr", Reason.IMAGE)
    return sorted(_compared(tree, PurePosixPath("/usr"), top.directories["usr"], 0))


def commit_root(commit: bytes) -> str:
    """Returns the checksum of the topmost directory of a commit: a{sv}, ay, a(say), s, s, t, and two checksums."""
    end = len(commit) - 6 * _offset_size(commit)
    if end < 2 * _DIGEST:
        raise DiskDamaged("a commit in the ostree repository is cut short", hint="ostree fsck")
    return commit[end - 2 * _DIGEST:end - _DIGEST].hex()


def listing(dirtree: bytes) -> Listing:
    """Reads a directory: an array of files (name, checksum) and one of directories (name, checksum, metadata's)."""
    try:
        width = _offset_size(dirtree)
        end = _number(dirtree[len(dirtree) - width:])
        files = {_name(row, 1): row[-_DIGEST - _offset_size(row):][:_DIGEST].hex() for row in _rows(dirtree[:end])}
        directories = {_name(row, 1): _tree_of(row) for row in _rows(dirtree[end:len(dirtree) - width])}
    except (ValueError, IndexError) as error:
        raise DiskDamaged(f"a directory in the ostree repository cannot be read: {error}", hint="ostree fsck") from None
    return Listing(files=files, directories=directories)


def file_checksum(place: TreeEntry) -> str:
    """Returns the checksum of a file or link as ostree computes it: of owner, mode, target, attributes and content.

    Raises:
        NotJudged: an attribute is not stored where it is read.
    """
    inode, system = place.inode, place.file_system
    target = system.link_target(inode).encode("utf-8", "surrogateescape") if place.is_link else b""
    fixed = struct.pack(">4I", inode.user, inode.group, inode.mode, 0)
    body = fixed + target + b"\0" + _array([_tuple(name.encode() + b"\0", value)
                                            for name, value in system.attribute_values(inode).items()])  # fmt: skip
    header = body + _offsets([len(fixed) + len(target) + 1], len(body))
    digest = hashlib.sha256(struct.pack(">I4x", len(header)) + header)
    if place.is_regular:
        at = 0
        for offset, piece in place.pieces():
            digest.update(bytes(offset - at))
            digest.update(piece)
            at = offset + len(piece)
        digest.update(bytes(inode.size - at))
    return digest.hexdigest()


def _deployed(tree: Tree) -> str:
    """The commit of the deployment that is the root of this tree, by its name."""
    root = tree.find("/")
    for path in tree.glob(_DEPLOYMENTS):
        place, name = tree.find(path), _DEPLOYMENT.fullmatch(path.name)
        if root and place and name and (place.file_system, place.inode.number) == (root.file_system, root.inode.number):
            return name[1]
    raise NotJudged("the system on the disk is no deployment of ostree", Reason.IMAGE)


def _object(tree: Tree, checksum: str, kind: str) -> bytes:
    content = tree.read(f"{_OBJECTS}/{checksum[:2]}/{checksum[2:]}.{kind}", _LARGEST)
    if content is None:
        raise DiskDamaged(f"the ostree repository has no {kind} {checksum}", hint="ostree fsck")
    if hashlib.sha256(content).hexdigest() != checksum:
        raise DiskDamaged(f"the {kind} {checksum} in the ostree repository is another one", hint="ostree fsck")
    return content


def _compared(tree: Tree, directory: PurePosixPath, checksum: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise NotJudged(f"directories of the commit are nested deeper than {_DEEPEST} levels", Reason.IMAGE)
    wanted = listing(_object(tree, checksum, "dirtree"))
    there = set(tree.names(directory))
    yield from (f"A {directory / name}" for name in there - wanted.files.keys() - wanted.directories.keys())
    for name, file in wanted.files.items():
        place = tree.find(directory / name, follow=False)
        if place is None:
            yield f"D {directory / name}"
        elif place.is_directory or file_checksum(place) != file:
            yield f"M {directory / name}"
    for name, below in wanted.directories.items():
        place = tree.find(directory / name, follow=False)
        if place is None or not place.is_directory:
            yield f"D {directory / name}"
        else:
            yield from _compared(tree, directory / name, below, depth + 1)


# GVariant


def _offset_size(container: bytes) -> int:
    """The bytes of each offset in a container, by the container's size."""
    return next(size for size in (1, 2, 4, 8) if len(container) < 1 << 8 * size)


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _rows(array: bytes) -> list[bytes]:
    """The elements of an array, of variable size."""
    if not array:
        return []
    width = _offset_size(array)
    end = _number(array[len(array) - width:])
    if not 0 < end <= len(array) - width or (len(array) - end) % width:
        raise ValueError("an array without its offsets")
    ends = [_number(array[place:place + width]) for place in range(end, len(array), width)]
    return [array[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


def _name(row: bytes, members: int) -> str:
    """The first member of a tuple, a text, that offset number `members` from the end is the end of."""
    width = _offset_size(row)
    end = _number(row[len(row) - members * width:][:width])
    if not 1 < end <= len(row) or row[end - 1]:
        raise ValueError("a name without an end")
    name = row[:end - 1].decode("utf-8", "surrogateescape")
    if name in (".", "..") or "/" in name:
        raise ValueError(f"an entry {name!r}")
    return name


def _tree_of(row: bytes) -> str:
    """The second member of (name, checksum of the directory, checksum of its metadata)."""
    width = _offset_size(row)
    end = _number(row[len(row) - 2 * width:][:width])
    if not _DIGEST < end <= len(row):
        raise ValueError("an entry without a checksum")
    return row[end - _DIGEST:end].hex()


def _offsets(ends: list[int], body: int) -> bytes:
    """Those offsets, each as wide as the size of the container requires of which they are the end."""
    width = next(size for size in (1, 2, 4, 8) if body + size * len(ends) < 1 << 8 * size)
    return b"".join(end.to_bytes(width, "little") for end in ends)


def _tuple(first: bytes, last: bytes) -> bytes:
    return first + last + _offsets([len(first)], len(first) + len(last))


def _array(rows: list[bytes]) -> bytes:
    body, ends = b"".join(rows), [sum(map(len, rows[:count + 1])) for count in range(len(rows))]
    return body + _offsets(ends, len(body))
