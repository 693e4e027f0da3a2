"""What a boot reads ahead and never looks at: blocks of a journal behind those that its recovery goes by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lifsea_testbed.disk.ext4 import Unreplayed, is_ext4
from lifsea_testbed.disk.partitions import Partition, partitions
from lifsea_testbed.disk.source import Source
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.powercut.writelog import SECTOR


def never_looked_at(disk: Source) -> set[int]:
    """Returns sectors that can hold anything without any difference to a boot of that disk.

    Only journals of ext4 are known so well; a file system that cannot be read here adds none.
    """
    found: set[int] = set()
    with contextlib.suppress(DiskDamaged, NotJudged):
        for partition in partitions(disk):
            with contextlib.suppress(DiskDamaged, NotJudged):
                found.update(_idle(partition))
    return found


def _idle(partition: Partition) -> Iterator[int]:
    if is_ext4(partition.content):
        system = Unreplayed(partition.content)
        each = system.layout.block_size // SECTOR
        for block in system.idle_journal():
            yield from range(partition.first + block * each, partition.first + (block + 1) * each)
