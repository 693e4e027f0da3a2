"""States that need no boot: they differ from a booted one in sectors alone that its boot never looked at.

A machine that finds the same in every sector that it goes by cannot tell the two disks apart, so what it did on one it
can do on the other; docs/decisions has the argument. A part of what is inferred is booted nevertheless.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace

from lifsea_testbed.disk.ext4 import Unreplayed, is_ext4
from lifsea_testbed.disk.partitions import Partition, partitions
from lifsea_testbed.disk.source import Source
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.powercut.crash_states import CrashState
from lifsea_testbed.powercut.disk_contents import DiskContents, StateDigests
from lifsea_testbed.powercut.verdicts import CrashResult, Evidence
from lifsea_testbed.powercut.write_log import SECTOR
from lifsea_testbed.qemu.command_line import TRACED

#: One in so many inferred results is confirmed by a boot, of one sweep no more than so many: if none of 300 differs,
#: fewer than one in a hundred do, with 95 % confidence ("rule of three"; Hanley and Lippman-Hand, JAMA 249:1743, 1983).
_ONE_IN, _MOST = 20, 300
_READ, _WRITE, _STATUS = TRACED
_EVENT = re.compile(
    rf"^({'|'.join(TRACED)}) vdev (\S+) (?:.*\bsector (\d+) nsectors (\d+)|val 0)$", re.MULTILINE)


class Inference:
    """What the boots so far say of states that were not booted."""

    def __init__(self, contents: DiskContents) -> None:
        self._contents = contents
        self._known: dict[frozenset[int], tuple[StateDigests, dict[str, CrashResult]]] = {}

    def learn(self, result: CrashResult, state: CrashState) -> None:
        """Takes in what a boot read and where it led to; what was itself inferred teaches nothing."""
        if not result.reads or result.how is Evidence.INFERRED:
            return
        read = {sector for first, count in result.reads for sector in range(first, first + count)}
        sectors = frozenset(read - never_looked_at(self._contents.disk(state)))
        if sectors not in self._known:
            self._known[sectors] = self._contents.within(sectors), {}
        digests, results = self._known[sectors]
        results[digests.digest(state)] = result

    def infer(self, state: CrashState, digest: str) -> CrashResult | None:
        """Returns the result that a state must have, or nothing if only a boot can tell."""
        for digests, results in reversed(self._known.values()):
            if like := results.get(digests.digest(state)):
                return replace(like, digest=digest, state=state.name, how=Evidence.INFERRED, like=like.state, at=0.0,
                               seconds=0.0, reads=())  # fmt: skip
        return None


def unconfirmed(results: Iterable[CrashResult]) -> list[CrashResult]:
    """Returns those that a boot has yet to confirm, drawn from all that were inferred by the digests of their disks."""
    # Other digits of the digest choose a shard.
    drawn = [result for result in results
             if result.how is not Evidence.BOOTED and int(result.digest[:8], 16) % _ONE_IN == 0]  # fmt: skip
    chosen = sorted(drawn, key=lambda result: result.digest)[:_MOST]
    return [result for result in chosen if result.how is Evidence.INFERRED]


def parse_reads(trace: str, contents: DiskContents, unseen: Set[int] = frozenset()) -> tuple[tuple[int, int], ...]:
    """Returns the sectors that a machine read according to its trace, of those that the log touches, in order.

    What it had written to the same disk before is left out: it found what it wrote, whatever lay there. So is what is
    `unseen` until the driver that read it writes it.
    """
    disks = defaultdict[str, _Requests](lambda: _Requests(unseen))
    for event, disk, first, count in _EVENT.findall(trace):
        if event == _READ:
            disks[disk].read(_touched(contents, first, count))
        elif event == _WRITE:
            disks[disk].write(_touched(contents, first, count))
        else:
            disks[disk].begin()
    return tuple(_ranges(sorted(set[int]().union(*(requests.looked_at for requests in disks.values())))))


class _Requests:
    """What was asked of one disk."""

    def __init__(self, unseen: Set[int]) -> None:
        self._unseen = unseen
        self._found, self._ahead, self._own = set[int](), set[int](), set[int]()

    def begin(self) -> None:
        """Another driver begins: what the one before read and did not write may have been looked at."""
        self._found |= self._ahead
        self._ahead.clear()

    def read(self, sectors: set[int]) -> None:
        """They were read."""
        fresh = sectors - self._own
        self._found |= fresh - self._unseen
        self._ahead |= fresh & self._unseen

    def write(self, sectors: set[int]) -> None:
        """They were written."""
        self._own |= sectors
        self._ahead -= sectors

    @property
    def looked_at(self) -> set[int]:
        """What was read, and may have been looked at."""
        return self._found | self._ahead


def _touched(contents: DiskContents, first: str, count: str) -> set[int]:
    return {sector for sector in range(int(first), int(first) + int(count)) if contents.touches(sector)}


def _ranges(sectors: list[int]) -> Iterator[tuple[int, int]]:
    first = count = 0
    for sector in sectors:
        if count and sector == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = sector, 1
    if count:
        yield first, count


#: Where a program that tells file systems apart looks for their marks, in sectors of a partition (util-linux,
#: libblkid/src/superblocks): in the first 512 KiB, the last MiB, and the 8 KiB from each higher power of two on.
_FIRST, _LAST, _EACH = (512 << 10) // SECTOR, (1 << 20) // SECTOR, (8 << 10) // SECTOR


def never_looked_at(disk: Source) -> set[int]:
    """Returns sectors that can hold anything without any difference to a boot of that disk.

    Only journals of ext4 are known so well; a file system that cannot be read here adds none.
    """
    return {partition.first + sector for partition, sector in _sectors(disk, Unreplayed.idle_journal)}


def overwritten_unseen(disk: Source) -> set[int]:
    """Returns sectors that a recovery overwrites before the kernel looks at them, though it reads them ahead.

    A boot loader may look at them: it is another driver, and writes none of them. File systems as above.
    """
    return {partition.first + sector for partition, sector in _sectors(disk, Unreplayed.replayed_inodes)
            if not may_hold_mark(sector, partition.content.size // SECTOR)}  # fmt: skip


def may_hold_mark(sector: int, end: int) -> bool:
    """Whether somebody may look for the mark of a file system in that sector of a partition of so many."""
    return sector < _FIRST or sector >= end - _LAST or sector - (1 << sector.bit_length() - 1) < _EACH


def _sectors(disk: Source, blocks: Callable[[Unreplayed], set[int]]) -> Iterator[tuple[Partition, int]]:
    """Yields the sectors of such blocks, each with the partition that it is counted in."""
    with contextlib.suppress(DiskDamaged, NotJudged):
        for partition in partitions(disk):
            with contextlib.suppress(DiskDamaged, NotJudged):
                if is_ext4(partition.content):
                    system = Unreplayed(partition.content)
                    each = system.layout.block_size // SECTOR
                    yield from ((partition, block * each + part) for block in blocks(system) for part in range(each))
