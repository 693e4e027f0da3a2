"""Which file system a partition holds, by its content."""

from __future__ import annotations

from typing import Any

from lifsea_testbed.disk.ext4 import Ext4, is_ext4
from lifsea_testbed.disk.fat import Fat, is_fat
from lifsea_testbed.disk.inodes import FileSystem
from lifsea_testbed.disk.source import ByteSource

_READ = ((is_ext4, Ext4), (is_fat, Fat))
_OTHERS = {0: {b"XFSB": "XFS", b"hsqs": "squashfs", b"LUKS\xba\xbe": "LUKS"}, 512: {b"LABELONE": "LVM"},
           1024: {b"\xe2\xe1\xf5\xe0": "EROFS"}, 65600: {b"_BHRfS_M": "btrfs"}}  # fmt: skip
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
