"""What a boot reads ahead and never looks at, around the recovery of a journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lifsea_testbed.disk.ext4 import Unreplayed, is_ext4
from lifsea_testbed.disk.partitions import Partition, partitions
from lifsea_testbed.disk.source import Source
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.powercut.writelog import SECTOR

#: Where programs that tell file systems apart look for their marks: within the first and last MiB of a partition
#: (util-linux, libblkid/src/superblocks).
_MARKS = (1 << 20) // SECTOR


def never_looked_at(disk: Source) -> set[int]:
    """Returns sectors that can hold anything without any difference to a boot of that disk.

    Only journals of ext4 are known so well; a file system that cannot be read here adds none.
    """
    return _sectors(disk, Unreplayed.idle_journal, apart=0)


def overwritten_unseen(disk: Source) -> set[int]:
    """Returns sectors that a recovery overwrites before the kernel looks at them, though it reads them ahead.

    A boot loader may look at them: it is another driver, and writes none of them. File systems as above.
    """
    return _sectors(disk, Unreplayed.replayed_inodes, apart=_MARKS)


def _sectors(disk: Source, blocks: Callable[[Unreplayed], set[int]], *, apart: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(DiskDamaged, NotJudged):
        for partition in partitions(disk):
            with contextlib.suppress(DiskDamaged, NotJudged):
                found.update(_within(partition, blocks, apart))
    return found


def _within(partition: Partition, blocks: Callable[[Unreplayed], set[int]], apart: int) -> Iterator[int]:
    """The sectors of such blocks, but those so near to either end of the partition."""
    if is_ext4(partition.content):
        system = Unreplayed(partition.content)
        each, end = system.layout.block_size // SECTOR, partition.content.size // SECTOR
        for block in blocks(system):
            for sector in range(max(apart, block * each), min(end - apart, (block + 1) * each)):
                yield partition.first + sector
