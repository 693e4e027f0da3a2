"""Inference of verdicts: a state that differs from a booted one only in sectors that its boot never used needs no boot.

A machine that reads the same from every sector it uses cannot distinguish the two disks; docs/decisions/0020 has the
argument. A sample of the inferred states is booted nevertheless. Sectors that a boot reads ahead and never uses, around
the recovery of a journal, are left out of its reads.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace

from lifsea_testbed.disk.ext4 import UnreplayedExt4, is_ext4
from lifsea_testbed.disk.partitions import Partition, partitions
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.powercut.crash_states import CrashState
from lifsea_testbed.powercut.disk_contents import DiskContents, StateDigests
from lifsea_testbed.powercut.verdicts import CrashResult, Evidence
from lifsea_testbed.powercut.write_log import SECTOR
from lifsea_testbed.qemu.command_line import TRACED

#: One in 20 inferred results is confirmed by a boot, at most 300 of a sweep: if none of 300 differs,
#: fewer than one in a hundred do, with 95 % confidence ("rule of three"; Hanley and Lippman-Hand, JAMA 249:1743, 1983).
_ONE_IN, _MOST = 20, 300
_READ, _WRITE, _STATUS = TRACED
_EVENT = re.compile(
    rf"^({'|'.join(TRACED)}) vdev (\S+) (?:.*\bsector (\d+) nsectors (\d+)|val 0)$", re.MULTILINE)
#: Where programs look for the signatures of file systems, in sectors of a partition (util-linux,
#: libblkid/src/superblocks): in the first 512 KiB, the last MiB, and the 8 KiB from each higher power of two on.
_FIRST, _LAST, _EACH = (512 << 10) // SECTOR, (1 << 20) // SECTOR, (8 << 10) // SECTOR


class Inference:
    """The verdicts that follow for states not booted from the boots so far."""

    def __init__(self, contents: DiskContents) -> None:
        self._contents = contents
        self._known: dict[frozenset[int], tuple[StateDigests, dict[str, CrashResult]]] = {}

    def learn(self, result: CrashResult, state: CrashState) -> None:
        """Adds the reads and the verdict of a boot; inferred results are ignored."""
        if not result.reads or result.how is Evidence.INFERRED:
            return
        read = {sector for first, count in result.reads for sector in range(first, first + count)}
        sectors = frozenset(read - never_used(self._contents.disk(state)))
        if sectors not in self._known:
            self._known[sectors] = self._contents.within(sectors), {}
        digests, results = self._known[sectors]
        results[digests.digest(state)] = result

    def infer(self, state: CrashState, digest: str) -> CrashResult | None:
        """Returns the result that follows for a state, or None if it must be booted."""
        for digests, results in reversed(self._known.values()):
            if like := results.get(digests.digest(state)):
                return replace(like, digest=digest, state=state.name, how=Evidence.INFERRED, like=like.state, at=0.0,
                               seconds=0.0, reads=())  # fmt: skip
        return None


def unconfirmed(results: Iterable[CrashResult]) -> list[CrashResult]:
    """Returns the results that a boot has yet to confirm: a sample of the inferred ones, drawn by their digests."""
    # The shard is chosen by other digits of the digest.
    drawn = [result for result in results
             if result.how is not Evidence.BOOTED and int(result.digest[:8], 16) % _ONE_IN == 0]  # fmt: skip
    chosen = sorted(drawn, key=lambda result: result.digest)[:_MOST]
    return [result for result in chosen if result.how is Evidence.INFERRED]


def parse_reads(trace: str, contents: DiskContents, unseen: Set[int] = frozenset()) -> tuple[tuple[int, int], ...]:
    """Returns the sectors that a machine read by its trace, of those that the log writes, as ranges in order.

    Sectors that it had itself written to the same disk are left out: their earlier content made no difference. So are
    `unseen` sectors that the driver which read them writes before it uses them.
    """
    disks = defaultdict[str, _Requests](lambda: _Requests(unseen))
    for event, disk, first, count in _EVENT.findall(trace):
        if event == _READ:
            disks[disk].read(_touched(contents, first, count))
        elif event == _WRITE:
            disks[disk].write(_touched(contents, first, count))
        else:
            disks[disk].begin()
    return tuple(_ranges(sorted(set[int]().union(*(requests.used for requests in disks.values())))))


class _Requests:
    """The requests to one disk."""

    def __init__(self, unseen: Set[int]) -> None:
        self._unseen = unseen
        self._found, self._ahead, self._own = set[int](), set[int](), set[int]()

    def begin(self) -> None:
        """Starts another driver: the unwritten reads of the one before count as used."""
        self._found |= self._ahead
        self._ahead.clear()

    def read(self, sectors: set[int]) -> None:
        """Records a read."""
        fresh = sectors - self._own
        self._found |= fresh - self._unseen
        self._ahead |= fresh & self._unseen

    def write(self, sectors: set[int]) -> None:
        """Records a write."""
        self._own |= sectors
        self._ahead -= sectors

    @property
    def used(self) -> set[int]:
        """The sectors that were read and may have been used."""
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
