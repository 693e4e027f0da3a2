"""Crash states: what a disk with a volatile cache may hold when the power fails, named so that each can be had again.

Between two flushes, an epoch, such a disk may have kept any of the epoch's writes, or a part of one, and all writes
before it. Tried are the state at each flush; each prefix of the writes in the order in which they completed; each write
lost alone; subsets drawn at random; and each write torn where 4 KiB, and where 512 bytes of it end.
"""

from __future__ import annotations

import enum
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lifsea_testbed.errors import CallerError
from lifsea_testbed.powercut.write_log import SECTOR, LogEntry

#: The unit in which a file system writes (bytes).
PAGE = 4096
_HINT = "names look like 'epoch 17' or 'epoch 17, without write 3'; see docs/powercut.md"
_NAME = re.compile(
    r"epoch (?P<epoch>\d+)(?:, (?:after write (?P<after>\d+)|without writes? (?P<without>\d+(?:\+\d+)*)"
    r"|write (?P<torn>\d+) torn after (?P<bytes>\d+) bytes|subset (?P<subset>\d+) of seed (?P<seed>\d+)))?"
)


class CrashKind(enum.StrEnum):
    """How a state was chosen; in the order in which they are tried."""

    FLUSH = "flush"
    PREFIX = "prefix"
    WITHOUT = "without one write"
    SUBSET = "random subset"
    TORN_PAGES = "torn at 4 KiB"
    TORN_SECTORS = "torn at 512 B"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The writes (places in the log) between two flushes, and the place of the flush that ends it, or of the end."""

    number: int
    first: int
    writes: tuple[int, ...]
    end: int


@dataclass(frozen=True, kw_only=True)
class CrashState:
    """A disk on which the log's first `position` entries are, but of some only their first sectors: `kept`.

    As long as the log is not longer than `latest` entries, a cut can lead to it.
    """

    name: str
    kind: CrashKind
    position: int
    kept: tuple[tuple[int, int], ...] = ()
    latest: int


def epochs(entries: Sequence[LogEntry]) -> list[Epoch]:
    """Returns the epochs in order; number 0 is before the first flush."""
    found, first = list[Epoch](), 0
    ends = [place for place, entry in enumerate(entries) if entry.is_flush]
    for number, end in enumerate([*ends, len(entries)]):
        writes = tuple(place for place in range(first, end) if entries[place].is_write)
        found.append(Epoch(number=number, first=first, writes=writes, end=end))
        first = end + 1
    return found


class CrashStates:
    """The states of one log; only cuts from the epoch of its entry `start` on are enumerated, any can be found."""

    def __init__(self, entries: Sequence[LogEntry], *, start: int = 0, seed: int = 1, subsets: int = 2) -> None:
        self._entries = entries
        self._seed, self._subsets = seed, subsets
        self.epochs = epochs(entries)
        self.tried = [epoch for epoch in self.epochs if epoch.end >= start]

    def enumerate(self, kinds: Sequence[CrashKind] = tuple(CrashKind)) -> Iterator[CrashState]:
        """Yields each state of those kinds once by name; equal disks under several names are told by their digests."""
        of = {CrashKind.FLUSH: _flushes, CrashKind.PREFIX: _prefixes, CrashKind.WITHOUT: _withouts,
              CrashKind.SUBSET: self._random, CrashKind.TORN_PAGES: self._torn_pages,
              CrashKind.TORN_SECTORS: self._torn_sectors}  # fmt: skip
        for kind in kinds:
            for epoch in self.tried:
                yield from of[kind](epoch)

    def find(self, name: str) -> CrashState:
        """Returns the state of that name.

        Raises:
            CallerError: no state of this log is called so.
        """
        match = _NAME.fullmatch(name)
        if match is None or int(match["epoch"]) >= len(self.epochs):
            raise CallerError(f"{name!r}: no such state", hint=_HINT)
        epoch = self.epochs[int(match["epoch"])]
        if match["without"]:
            state = self._lacking(epoch, [int(number) for number in match["without"].split("+")])
        else:
            state = self._parsed(epoch, {key: int(value) for key, value in match.groupdict().items() if value})
        if state is None or state.name != name:
            raise CallerError(f"{name!r}: no such state of an epoch of {len(epoch.writes)} writes", hint=_HINT)
        return state

    def lost(self, state: CrashState) -> list[int]:
        """Returns the writes of its epoch, by number, that a state lacks, in whole or in part."""
        kept = dict(state.kept)
        return [number for number, place in enumerate(self.epoch(state).writes, start=1)
                if place >= state.position or place in kept]  # fmt: skip

    def lacking(self, state: CrashState, numbers: Sequence[int]) -> CrashState:
        """Returns the state of the same epoch that lacks these writes and no others."""
        return _without(self.epoch(state), numbers)

    def epoch(self, state: CrashState) -> Epoch:
        """Returns the epoch in which the power fails."""
        return next(epoch for epoch in self.epochs if epoch.end == state.latest)

    def _lacking(self, epoch: Epoch, numbers: Sequence[int]) -> CrashState | None:
        in_order = sorted(set(numbers)) == list(numbers)
        return _without(epoch, numbers) if in_order and numbers[0] >= 1 and numbers[-1] <= len(epoch.writes) else None

    def _parsed(self, epoch: Epoch, said: dict[str, int]) -> CrashState | None:
        number = said.get("after", said.get("torn", 1))
        if not 1 <= number <= max(1, len(epoch.writes)) or (len(said) > 1 and not epoch.writes):
            return None
        if "after" in said:
            return _prefix(epoch, number)
        if "torn" in said:
            return self._torn(epoch, number, said["bytes"])
        return _subset(epoch, said["subset"], said["seed"]) if "subset" in said else _flush(epoch)

    def _torn_pages(self, epoch: Epoch) -> Iterator[CrashState]:
        for number, place in enumerate(epoch.writes, start=1):
            for size in range(PAGE, self._entries[place].sectors * SECTOR, PAGE):
                yield _tear(epoch, number, size)

    def _torn_sectors(self, epoch: Epoch) -> Iterator[CrashState]:
        for number, place in enumerate(epoch.writes, start=1):
            for size in range(SECTOR, self._entries[place].sectors * SECTOR, SECTOR):
                if size % PAGE:
                    yield _tear(epoch, number, size)

    def _random(self, epoch: Epoch) -> Iterator[CrashState]:
        for number in range(1, self._subsets + 1 if len(epoch.writes) > 2 else 1):
            yield _subset(epoch, number, self._seed)

    def _torn(self, epoch: Epoch, number: int, size: int) -> CrashState | None:
        whole = self._entries[epoch.writes[number - 1]].sectors * SECTOR
        return None if size % SECTOR or not 0 < size < whole else _tear(epoch, number, size)


def prefix(count: int) -> CrashState:
    """Returns the disk on which the log's first entries are, so many and no others."""
    return CrashState(name=f"the first {count} entries", kind=CrashKind.PREFIX, position=count, latest=count)


def _flushes(epoch: Epoch) -> Iterator[CrashState]:
    yield _flush(epoch)


def _prefixes(epoch: Epoch) -> Iterator[CrashState]:
    for number in range(1, len(epoch.writes) + 1):
        yield _prefix(epoch, number)


def _withouts(epoch: Epoch) -> Iterator[CrashState]:
    for number in range(1, len(epoch.writes)):
        yield _without(epoch, [number])


def _flush(epoch: Epoch) -> CrashState:
    return CrashState(name=f"epoch {epoch.number}", kind=CrashKind.FLUSH, position=epoch.first, latest=epoch.end)


def _prefix(epoch: Epoch, number: int) -> CrashState:
    return CrashState(name=f"epoch {epoch.number}, after write {number}", kind=CrashKind.PREFIX,
                      position=epoch.writes[number - 1] + 1, latest=epoch.end)  # fmt: skip


def _without(epoch: Epoch, numbers: Sequence[int]) -> CrashState:
    which = f"write{'s' if len(numbers) > 1 else ''} {'+'.join(map(str, numbers))}"
    return CrashState(name=f"epoch {epoch.number}, without {which}", kind=CrashKind.WITHOUT, position=epoch.end,
                      kept=tuple((epoch.writes[number - 1], 0) for number in numbers), latest=epoch.end)  # fmt: skip


def _tear(epoch: Epoch, number: int, size: int) -> CrashState:
    place = epoch.writes[number - 1]
    return CrashState(name=f"epoch {epoch.number}, write {number} torn after {size} bytes", position=place + 1,
                      kind=CrashKind.TORN_SECTORS if size % PAGE else CrashKind.TORN_PAGES,
                      kept=((place, size // SECTOR),), latest=epoch.end)  # fmt: skip


def _subset(epoch: Epoch, number: int, seed: int) -> CrashState:
    draw = random.Random(f"{seed}/{epoch.number}/{number}")
    lost = tuple((place, 0) for place in epoch.writes if draw.random() < 0.5)
    return CrashState(name=f"epoch {epoch.number}, subset {number} of seed {seed}", kind=CrashKind.SUBSET,
                      position=epoch.end, kept=lost, latest=epoch.end)  # fmt: skip


T = TypeVar("T")


def smallest(lost: Sequence[T], breaks: Callable[[Sequence[T]], bool]) -> list[T]:
    """Returns a part of `lost` that still breaks, while it without any one of its members does not (ddmin).

    `lost` as a whole is known to break (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input").
    """
    left, parts = list(lost), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        chunks = [left[start:start + size] for start in range(0, len(left), size)]
        rests = [[item for other in chunks if other is not chunk for item in other] for chunk in chunks]
        found = next((some for some in [*chunks, *rests] if len(some) < len(left) and some and breaks(some)), None)
        if found is not None:
            parts = max(parts - 1, 2) if len(found) > size else 2
            left = found
        elif parts >= len(left):
            break
        else:
            parts = min(2 * parts, len(left))
    return left
