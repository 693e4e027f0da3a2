"""What a boot reads ahead and never looks at, around the recovery of a journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lifsea_testbed.disk.ext4 import UnreplayedExt4, is_ext4
from lifsea_testbed.disk.partitions import Partition, partitions
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.powercut.write_log import SECTOR

#: Where a program that tells file systems apart looks for their marks, in sectors of a partition (util-linux,
#: libblkid/src/superblocks): in the first 512 KiB, the last MiB, and the 8 KiB from each higher power of two on.
_FIRST, _LAST, _EACH = (512 << 10) // SECTOR, (1 << 20) // SECTOR, (8 << 10) // SECTOR


def never_looked_at(disk: ByteSource) -> set[int]:
    """Returns sectors that can hold anything without any difference to a boot of that disk.

    Only journals of ext4 are known so well; a file system that cannot be read here adds none.
    """
    return {partition.first + sector for partition, sector in _sectors(disk, UnreplayedExt4.idle_journal)}


def overwritten_unseen(disk: ByteSource) -> set[int]:
    """Returns sectors that a recovery overwrites before the kernel looks at them, though it reads them ahead.

    A boot loader may look at them: it is another driver, and writes none of them. File systems as above.
    """
    return {partition.first + sector for partition, sector in _sectors(disk, UnreplayedExt4.replayed_inodes)
            if not may_hold_mark(sector, partition.content.size // SECTOR)}  # fmt: skip


def may_hold_mark(sector: int, end: int) -> bool:
    """Whether somebody may look for the mark of a file system in that sector of a partition of so many."""
    return sector < _FIRST or sector >= end - _LAST or sector - (1 << sector.bit_length() - 1) < _EACH


def _sectors(disk: ByteSource, blocks: Callable[[UnreplayedExt4], set[int]]) -> Iterator[tuple[Partition, int]]:
    """Yields the sectors of such blocks, each with the partition that it is counted in."""
    with contextlib.suppress(DiskDamaged, NotJudged):
        for partition in partitions(disk):
            with contextlib.suppress(DiskDamaged, NotJudged):
                if is_ext4(partition.content):
                    system = UnreplayedExt4(partition.content)
                    each = system.layout.block_size // SECTOR
                    yield from ((partition, block * each + part) for block in blocks(system) for part in range(each))
