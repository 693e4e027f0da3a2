"""Which file system a partition holds, by its content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifsea_testbed.disk.btrfs import Btrfs
from lifsea_testbed.disk.btrfs_trees import is_btrfs
from lifsea_testbed.disk.erofs import Erofs, is_erofs
from lifsea_testbed.disk.ext4 import Ext4, is_ext4
from lifsea_testbed.disk.fat import Fat, is_fat
from lifsea_testbed.disk.inodes import FileSystem
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.disk.squashfs import Squashfs, is_squashfs
from lifsea_testbed.disk.xfs import Xfs, is_xfs

_READ: tuple[tuple[Callable[[ByteSource], bool], Callable[[ByteSource], FileSystem[Any]]], ...] = (
    (is_ext4, Ext4), (is_xfs, Xfs), (is_btrfs, Btrfs), (is_squashfs, Squashfs), (is_erofs, Erofs), (is_fat, Fat),
)  # fmt: skip
_OTHERS = {0: {b"LUKS\xba\xbe": "LUKS", b"verity\0\0": "a hash tree of dm-verity"}, 3: {b"NTFS": "NTFS"},
           512: {b"LABELONE": "LVM"}, 1024: {b"\x10\x20\xf5\xf2": "F2FS"},
           4096: {b"\xfc\x4e\x2b\xa9": "md RAID"}}  # fmt: skip
#: The bytes at the start of a partition that tell whether it holds anything.
_LOOKED_AT = 128 << 10


def file_system(content: ByteSource) -> FileSystem[Any] | None:
    """Returns the file system of that content, or None where it is of no kind that is read.

    Raises:
        DiskDamaged: it is inconsistent.
        NotJudged: it has a feature that is not supported.
    """
    return next((kind(content) for is_of, kind in _READ if is_of(content)), None)


def unread_kind(content: ByteSource) -> str:
    """Returns what the content is that is no file system that is read, by its signature."""
    found = [name for place, kinds in _OTHERS.items() for magic, name in kinds.items()
             if content.size >= place + len(magic) and content.read_at(place, len(magic)) == magic]  # fmt: skip
    return found[0] if found else "an unknown file system"


def is_blank(content: ByteSource) -> bool:
    """Returns whether a partition holds nothing, or swap space (mkswap(8))."""
    start = content.read_at(0, min(content.size, _LOOKED_AT))
    return not any(start) or start[4086:4096] in (b"SWAPSPACE2", b"SWAP-SPACE")
