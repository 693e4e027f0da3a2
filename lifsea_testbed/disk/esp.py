"""The EFI system partitions of a disk, and what a firmware starts from them."""

from __future__ import annotations

from lifsea_testbed.disk.fat import Fat, is_fat
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.partitions import ESP, partitions
from lifsea_testbed.disk.source import ByteSource

#: What a firmware starts that has no boot entry of its own (UEFI specification 2.10, 3.5.1.1).
DEFAULT_LOADER = "/EFI/BOOT/BOOTX64.EFI"


def has_default_loader(disk: ByteSource) -> bool:
    """Returns whether a firmware without boot entries finds a loader for x86-64 on one of the disk's ESPs.

    Raises:
        DiskDamaged: the partition table or an ESP is inconsistent.
        NotJudged: one of them is beyond a bound.
    """
    return any(_is_file(Tree(root_of(Fat(partition.content)))) for partition in partitions(disk)
               if partition.kind == ESP and is_fat(partition.content))  # fmt: skip


def _is_file(esp: Tree) -> bool:
    loader = esp.find(DEFAULT_LOADER)
    return loader is not None and loader.is_regular and loader.inode.size > 0
