"""What a disk has for a BIOS and for UEFI to boot, looked for as the firmware does."""

from __future__ import annotations

from lifsea_testbed.disk.fat import Fat, is_fat
from lifsea_testbed.disk.filesystem import Tree, TreeEntry, root_of
from lifsea_testbed.disk.image import SECTOR
from lifsea_testbed.disk.image_formats import has_boot_sector
from lifsea_testbed.disk.partitions import BIOS_BOOT, ESP, Partition, partitions
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.support.firmware import DEFAULT_LOADER, BootLoaders

#: Code in a master boot record ends before the disk's identifier and the table (UEFI specification 2.10, 5.2.1).
_CODE = 440


def boot_loaders(disk: ByteSource) -> BootLoaders:
    """Returns what the disk has for each firmware.

    Raises:
        DiskDamaged: its partition table is inconsistent.
        NotJudged: it cannot be read offline.
    """
    head = disk.read_at(0, min(2 * SECTOR, disk.size))
    found = partitions(disk)
    with_table = head[SECTOR:].startswith(b"EFI PART")
    loader, unread = _default_loader(found)
    return BootLoaders(
        code=has_boot_sector(head) and any(head[:_CODE]),
        place_for_bios=not with_table or any(partition.kind == BIOS_BOOT for partition in found),
        default_loader=loader, unread=unread,
    )  # fmt: skip


def _default_loader(found: list[Partition]) -> tuple[int, str]:
    """The number of the first partition with the default loader, or 0 and why an ESP could not be searched for it.

    Like edk2, it looks at every FAT file system, whatever the type of its partition.
    """
    unread: list[str] = []
    for partition in found:
        try:
            if is_fat(partition.content) and _is_file(Tree(root_of(Fat(partition.content))).find(DEFAULT_LOADER)):
                return partition.number, ""
        except (DiskDamaged, NotJudged) as error:
            unread += [f"its ESP, partition {partition.number}, cannot be read: {error}"] \
                if partition.kind == ESP else []  # fmt: skip
    return 0, "; ".join(unread)


def _is_file(place: TreeEntry | None) -> bool:
    return place is not None and place.is_regular and place.inode.size > 0
