"""The contents of a crash state's disk, computed without writing it: a digest, and the clusters that were changed.

The digest is the sum, modulo 2^128, of a hash of number and content of each sector that the log writes, less the same
for the base (the incremental hash of Bellare and Micciancio, "AdHash"). A state's digest follows
from that of its prefix of the log and from the sectors of the few writes that it lacks, at any size of the disk.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.powercut.crash_states import CrashState
from lifsea_testbed.powercut.write_log import SECTOR, LogEntry, WriteLog

#: The unit in which a state's disk is made (bytes): the page of a file system, so that most writes cover whole units.
CLUSTER = 4096
_IN_CLUSTER = CLUSTER // SECTOR
#: How many clusters of a disk are cached.
_KEPT = 4096
_DIGEST = 16
_MODULUS = 1 << 8 * _DIGEST


#: The contents of a sector over time, oldest first: the index in the log of the write, and the hash of the content. The
#: first is the base, with index -1.
_Versions = list[tuple[int, int]]


class StateDigests:
    """Digests of states over some of the sectors that a log writes."""

    def __init__(self, entries: Sequence[LogEntry], versions: Mapping[int, _Versions]) -> None:
        self._entries, self._versions = entries, versions
        self._sectors: list[list[int]] = [[] for _ in entries]
        changes: list[list[int]] = [[0] for _ in entries]
        for sector in sorted(versions):
            for (_, before), (place, content) in itertools.pairwise(versions[sector]):
                self._sectors[place].append(sector)
                changes[place].append(changes[place][-1] + content - before)
        self._changes = changes
        self._after = [0, *itertools.accumulate(parts[-1] for parts in changes)]

    def digest(self, state: CrashState) -> str:
        """Returns 32 hexadecimal digits, equal for two states if and only if these sectors are equal in both."""
        last, kept = state.position - 1, dict(state.kept)
        if list(kept) == [last]:
            whole = bisect.bisect_left(self._sectors[last], self._end(last, kept))
            return _text(self._after[last] + self._changes[last][whole])
        total = self._after[state.position]
        for sector in self._lost(state):
            below, *versions = self._versions[sector]
            there = [below, *(version for version in versions if version[0] < state.position)]
            left = [version for version in there[1:] if sector < self._end(version[0], kept)]
            total += [below, *left][-1][1] - there[-1][1]
        return _text(total)

    def _lost(self, state: CrashState) -> set[int]:
        """The sectors of the writes, or parts of writes, that the state lost."""
        starts = ((self._entries[place], count) for place, count in state.kept)
        sectors = (range(entry.sector + count, entry.sector + entry.sectors) for entry, count in starts)
        return {sector for some in sectors for sector in some if sector in self._versions}

    def _end(self, place: int, kept: dict[int, int]) -> int:
        return self._entries[place].sector + kept.get(place, self._entries[place].sectors)


class CrashDisk:
    """A base with some clusters changed: `changed` returns the content of those, and None for the others."""

    def __init__(self, base: ByteSource, changed: Callable[[int], bytes | None]) -> None:
        self._base, self._changed, self.size = base, functools.lru_cache(_KEPT)(changed), base.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly that many bytes."""
        parts = []
        while length > 0:
            cluster, inside = divmod(offset, CLUSTER)
            part = min(length, CLUSTER - inside)
            held = self._changed(cluster)
            parts.append(self._base.read_at(offset, part) if held is None else held[inside:inside + part])
            offset, length = offset + part, length - part
        return b"".join(parts)


class CrashDisks:
    """The disks of all states of one log on one base: `count` entries, disks of `size` bytes."""

    def __init__(self, log: WriteLog, base: ByteSource) -> None:
        self.count, self.size = len(log.entries), log.disk_size
        self._log, self._base = log, base
        self._touched: defaultdict[int, list[int]] = defaultdict(list)
        for place, entry in enumerate(log.entries):
            for cluster in _clusters(entry) if entry.is_write else ():
                self._touched[cluster].append(place)

    def clusters(self, state: CrashState, since: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yields number and content of the clusters written from entry `since` up to that state, in order.

        No write that the state lacks may lie before `since`.
        """
        for cluster in sorted(self._touched_within(since, state.position)):
            content = self._changed(cluster, state)
            if content is not None:
                yield cluster, content

    def disk(self, state: CrashState) -> CrashDisk:
        """Returns the state's disk as a source of bytes that is computed as it is read."""
        return CrashDisk(self._base, lambda cluster: self._changed(cluster, state))

    def touched(self) -> set[int]:
        """Returns the numbers of the clusters that the log writes."""
        return set(self._touched)

    def _touched_within(self, place: int, end: int) -> Iterable[int]:
        writes = (entry for entry in self._log.entries[place:end] if entry.is_write)
        return {cluster for entry in writes for cluster in _clusters(entry)}

    def _changed(self, cluster: int, state: CrashState) -> bytes | None:
        """The content of a cluster in that state, or None if no entry has written it by then."""
        places = [place for place in self._touched.get(cluster, ()) if place < state.position]
        return self._cluster(cluster, places, dict(state.kept)) if places else None

    def _cluster(self, cluster: int, places: list[int], kept: dict[int, int]) -> bytes:
        first = cluster * _IN_CLUSTER
        newest = self._log.entries[places[-1]]
        if places[-1] not in kept and newest.sector <= first and first + _IN_CLUSTER <= newest.sector + newest.sectors:
            return self._log.data(newest, first - newest.sector, _IN_CLUSTER)
        size = min(CLUSTER, self._base.size - cluster * CLUSTER)
        content = bytearray(self._base.read_at(cluster * CLUSTER, size).ljust(CLUSTER, b"\0"))
        for place in places:
            entry = self._log.entries[place]
            start = max(first, entry.sector)
            end = min(first + _IN_CLUSTER, entry.sector + min(entry.sectors, kept.get(place, entry.sectors)))
            if start < end:
                content[(start - first) * SECTOR:(end - first) * SECTOR] = \
                    self._log.data(entry, start - entry.sector, end - start)  # fmt: skip
        return bytes(content)


class DiskContents(CrashDisks):
    """The same, with digests of the disks: all data of the log, and what lies below, are read once."""

    def __init__(self, log: WriteLog, base: ByteSource) -> None:
        super().__init__(log, base)
        self._versions: dict[int, _Versions] = {}
        for place, entry in enumerate(log.entries):
            if entry.is_write:
                self._record(place)
        self._digests = StateDigests(log.entries, self._versions)

    def digest(self, state: CrashState) -> str:
        """Returns 32 hexadecimal digits, equal for two states if and only if their disks are equal."""
        return self._digests.digest(state)

    def touches(self, sector: int) -> bool:
        """Whether any entry of the log writes that sector."""
        return sector in self._versions

    def within(self, sectors: Iterable[int]) -> StateDigests:
        """Returns the digests over these sectors alone; the log must write each of them."""
        return StateDigests(self._log.entries, {sector: self._versions[sector] for sector in sectors})

    def _record(self, place: int) -> None:
        """Records the hashes of the sectors that a write changes."""
        entry = self._log.entries[place]
        data, below = self._log.data(entry), self._base.read_at(entry.sector * SECTOR, entry.sectors * SECTOR)
        for number in range(entry.sectors):
            sector, start = entry.sector + number, number * SECTOR
            if sector not in self._versions:
                self._versions[sector] = [(-1, _hash(sector, below[start:start + SECTOR]))]
            self._versions[sector].append((place, _hash(sector, data[start:start + SECTOR])))


def _clusters(entry: LogEntry) -> range:
    return range(entry.sector // _IN_CLUSTER, (entry.sector + entry.sectors - 1) // _IN_CLUSTER + 1)


def _text(total: int) -> str:
    return f"{total % _MODULUS:0{2 * _DIGEST}x}"


def _hash(sector: int, content: bytes) -> int:
    digest = hashlib.blake2b(content, digest_size=_DIGEST, key=sector.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")
