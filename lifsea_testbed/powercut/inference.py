"""Inference of verdicts: a state that differs from a booted one only in sectors that its boot never used needs no boot.

A machine that reads the same from every sector it uses cannot distinguish the two disks; docs/decisions/0020 has the
argument. A sample of the inferred states is booted nevertheless. Sectors that a boot reads ahead and never uses, around
the recovery of a journal, are left out of its reads.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace

from lifsea_testbed.powercut.crash_states import CrashState
from lifsea_testbed.powercut.disk_contents import DiskContents, StateDigests
from lifsea_testbed.powercut.verdicts import CrashResult, Evidence
from lifsea_testbed.qemu.command_line import TRACED

#: One in 20 inferred results is confirmed by a boot, at most 300 of a sweep: if none of 300 differs,
#: fewer than one in a hundred do, with 95 % confidence ("rule of three"; Hanley and Lippman-Hand, JAMA 249:1743, 1983).
_ONE_IN, _MOST = 20, 300
_READ, _WRITE, _STATUS = TRACED
_EVENT = re.compile(
    rf"^({'|'.join(TRACED)}) vdev (\S+) (?:.*\bsector (\d+) nsectors (\d+)|val 0)$", re.MULTILINE)


class Inference:
    """The verdicts that follow for states not booted from the boots so far.

    `never_used` returns the sectors of a state's disk whose content makes no difference to its boot.
    """

    def __init__(self, contents: DiskContents, never_used: Callable[[CrashState], Set[int]]) -> None:
        self._contents, self._never_used = contents, never_used
        self._known: dict[frozenset[int], tuple[StateDigests, dict[str, CrashResult]]] = {}

    def learn(self, result: CrashResult, state: CrashState) -> None:
        """Adds the reads and the verdict of a boot; inferred results are ignored."""
        if not result.reads or result.how is Evidence.INFERRED:
            return
        read = {sector for first, count in result.reads for sector in range(first, first + count)}
        sectors = frozenset(read - self._never_used(state))
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
