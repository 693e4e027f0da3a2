"""Sectors that a boot reads and never uses, because a journal's recovery ignores or overwrites them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lifsea_testbed.disk.ext4 import UnreplayedExt4, is_ext4
from lifsea_testbed.disk.partitions import Partition, partitions
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.powercut.write_log import SECTOR

#: Where programs look for the signatures of file systems, in sectors of a partition (util-linux,
#: libblkid/src/superblocks): in the first 512 KiB, the last MiB, and the 8 KiB from each higher power of two on.
_FIRST, _LAST, _EACH = (512 << 10) // SECTOR, (1 << 20) // SECTOR, (8 << 10) // SECTOR


def never_used(disk: ByteSource) -> set[int]:
    """Returns sectors whose content makes no difference to a boot of that disk: idle blocks of ext4 journals.

    A file system that cannot be read here adds none.
    """
    return {partition.first + sector for partition, sector in _sectors(disk, UnreplayedExt4.idle_journal)}


def overwritten_unseen(disk: ByteSource) -> set[int]:
    """Returns sectors that a journal's recovery overwrites before the kernel uses them, although it reads them ahead.

    A boot loader may use them: it is another driver, and writes none of them. File systems as above.
    """
    return {partition.first + sector for partition, sector in _sectors(disk, UnreplayedExt4.replayed_inodes)
            if not may_hold_signature(sector, partition.content.size // SECTOR)}  # fmt: skip


def may_hold_signature(sector: int, end: int) -> bool:
    """Whether programs look for a file system's signature in that sector of a partition of `end` sectors."""
    return sector < _FIRST or sector >= end - _LAST or sector - (1 << sector.bit_length() - 1) < _EACH


def _sectors(disk: ByteSource, blocks: Callable[[UnreplayedExt4], set[int]]) -> Iterator[tuple[Partition, int]]:
    """Yields the sectors of those blocks, each relative to its partition."""
    with contextlib.suppress(DiskDamaged, NotJudged):
        for partition in partitions(disk):
            with contextlib.suppress(DiskDamaged, NotJudged):
                if is_ext4(partition.content):
                    system = UnreplayedExt4(partition.content)
                    each = system.layout.block_size // SECTOR
                    yield from ((partition, block * each + part) for block in blocks(system) for part in range(each))
