"""What a crash state's disk holds, told without making the disk: a digest for comparing, clusters for making it.

Each sector of the disk that the log writes adds a hash of its place and content; the digest is their sum modulo 2^128,
less the same for what lay below (the incremental hash of Bellare and Micciancio, "AdHash"). A state's digest follows
from that of its prefix of the log and from the sectors of the few writes that it lacks, whatever the disk's size.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator

from lifsea_testbed.disk.source import Source
from lifsea_testbed.powercut.states import State
from lifsea_testbed.powercut.writelog import SECTOR, WriteLog

#: The unit in which a state's disk is made (bytes): the page of a file system, so that most are written as a whole.
CLUSTER = 4096
_IN_CLUSTER = CLUSTER // SECTOR
_DIGEST = 16
_MODULUS = 1 << 8 * _DIGEST


class Contents:
    """The disks of one log above one base."""

    def __init__(self, log: WriteLog, base: Source) -> None:
        self._log, self._base = log, base
        self._versions: dict[int, list[tuple[int, int]]] = {}
        self._touched: defaultdict[int, list[int]] = defaultdict(list)
        self._after = [0]
        self._torn: dict[int, list[int]] = {}
        for place, entry in enumerate(log.entries):
            self._after.append(self._after[-1] + (self._take(place) if entry.is_write else 0))

    def digest(self, state: State) -> str:
        """Returns what equal disks, and no others, have in common: 32 hexadecimal digits."""
        kept, entries = dict(state.kept), self._log.entries
        if list(kept) == [state.position - 1]:
            return _text(self._after[state.position - 1] + self._torn[state.position - 1][kept[state.position - 1]])
        total = self._after[state.position]
        for sector in self._lost(state):
            below, *versions = self._versions[sector]
            there = [below, *(version for version in versions if version[0] < state.position)]
            left = [version for version in there[1:]
                    if sector < entries[version[0]].sector + kept.get(version[0], entries[version[0]].sectors)]
            total += [below, *left][-1][1] - there[-1][1]
        return _text(total)

    def clusters(self, state: State) -> Iterator[tuple[int, bytes]]:
        """Yields the clusters that the log has touched up to that state, in order: number and content."""
        kept = dict(state.kept)
        for cluster in sorted(self._touched):
            places = [place for place in self._touched[cluster] if place < state.position]
            if places:
                yield cluster, self._cluster(cluster, places, kept)

    def _take(self, place: int) -> int:
        """Notes a write's sectors, and returns by how much it changes the digest."""
        entry, change = self._log.entries[place], 0
        self._torn[place] = [0]
        data, below = self._log.data(entry), self._base.read_at(entry.sector * SECTOR, entry.sectors * SECTOR)
        for number in range(entry.sectors):
            sector, start = entry.sector + number, number * SECTOR
            if sector not in self._versions:
                self._versions[sector] = [(-1, _hash(sector, below[start:start + SECTOR]))]
            content = _hash(sector, data[start:start + SECTOR])
            change += content - self._versions[sector][-1][1]
            self._torn[place].append(change)
            self._versions[sector].append((place, content))
        for cluster in range(entry.sector // _IN_CLUSTER, (entry.sector + entry.sectors - 1) // _IN_CLUSTER + 1):
            self._touched[cluster].append(place)
        return change

    def _lost(self, state: State) -> set[int]:
        """The sectors of the writes, or parts of writes, that the state lacks."""
        entries = self._log.entries
        return {sector for place, count in state.kept
                for sector in range(entries[place].sector + count, entries[place].sector + entries[place].sectors)}

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


def _text(total: int) -> str:
    return f"{total % _MODULUS:0{2 * _DIGEST}x}"


def _hash(sector: int, content: bytes) -> int:
    digest = hashlib.blake2b(content, digest_size=_DIGEST, key=sector.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")
