"""File systems for the fuzzer: small ones of each kind, and what reads them from end to end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from lifsea_testbed.disk.ext4 import Ext4, UnreplayedExt4
from lifsea_testbed.disk.fat import Fat, is_fat
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.inodes import FileSystem
from lifsea_testbed.disk.probe import file_system
from lifsea_testbed.disk.source import within
from tests.support import disks as made
from tests.support.disks import fill

_MIB = 1 << 20


class Bytes:
    """A source of these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes."""
        within(self, offset, length, "the input")
        return self._data[offset:offset + length]


def walked(system: FileSystem[Any]) -> None:
    """Reads the first 200 entries."""
    tree = Tree(root_of(system))
    for number, (path, place) in enumerate(tree.walk()):
        if place.is_regular and place.inode.size < _MIB:
            place.read()
        _ = place.file_system.attributes(place.inode), place.file_system.attribute_values(place.inode)
        if place.is_link:
            tree.real_path(path)
        if number > 200:
            break


def read_fat(data: bytes) -> None:
    if is_fat(Bytes(data)):
        walked(Fat(Bytes(data)))


def read_ext4(data: bytes) -> None:
    system = Ext4(Bytes(data))
    walked(system)
    if system.layout.journal:
        UnreplayedExt4(Bytes(data)).replayed_inodes()


def ext4s() -> list[bytes]:
    """A small ext4 with links, attributes and a journal that has something newer."""
    with tempfile.TemporaryDirectory() as place:
        root = fill(Path(place, "root"), {"etc/os-release": "ID=x\n", "f": "old", "l": "-> etc/os-release", "d/x": "",
                                          "large": bytes(range(256)) * 20, "up": "-> ../../f"})  # fmt: skip
        for name in range(40):
            (root / "d" / ("n" * 60 + str(name))).write_text("x")
        disk = made.file_system(Path(place, "fs"), root, "-b", "1024", size=8)
        block = made.run("debugfs", "-R", "blocks /f", disk).split()[0]
        Path(place, "new").write_bytes(b"new".ljust(1024))
        made.run("debugfs", "-w", "-f", "-", disk, given=f"jo\njw -b {block} {place}/new\njc\n")
        old = made.file_system(Path(place, "old"), root, "-t", "ext2", "-b", "1024", size=2)
        return [disk.read_bytes(), old.read_bytes()]


def fats() -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        root = fill(Path(place, "root"), {"EFI/BOOT/BOOTX64.EFI": bytes(range(256)) * 20, "a long name.conf": "x",
                                          "short": "y", **{f"d/n{number}": "" for number in range(40)}})  # fmt: skip
        kinds = (("-F", "12", "-s", "1"), 1), (("-F", "16", "-s", "1"), 5), (("-F", "32", "-s", "1"), 34)
        return [made.fat(Path(place, str(size)), root, *options, size=size).read_bytes() for options, size in kinds]


def read_any(data: bytes) -> None:
    """Reads a file system of whichever kind."""
    if system := file_system(Bytes(data)):
        walked(system)


def squashes() -> list[bytes]:
    """squashfs by each compressor that is read."""
    return _made("squashfs", ("gzip",), ("xz",), ("lz4",), ("plain",))


def erofs() -> list[bytes]:
    """EROFS with files in blocks and in chunks."""
    return _made("erofs", (), ("--chunksize=4096",))


def xfs() -> list[bytes]:
    """XFS of both versions, as small as mkfs.xfs makes it."""
    small = ("-d", "size=16m")
    return [data[:16 * _MIB] for data in _made("xfs", small, (*small, "-m", "crc=0"))]


def btrfs() -> list[bytes]:
    """btrfs with blocks of two sizes."""
    return _made("btrfs", ("-n", "4096", "--mixed"))


def _made(kind: str, *options: tuple[str, ...]) -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        root = fill(Path(place, "root"), {"f": bytes(range(256)) * 200, "l": "-> d/n1", "small": "x",
                                          **{f"d/n{number}": "y" for number in range(100)}})  # fmt: skip
        os.setxattr(root / "f", "user.long", b"v" * 600)
        os.setxattr(root / "small", "user.short", b"v")
        return [made.made_of(kind, Path(place, f"disk-{number}"), root, *each).read_bytes()
                for number, each in enumerate(options)]  # fmt: skip
