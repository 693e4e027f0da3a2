"""Crash states: the contents that a disk with a volatile cache may have after a power failure, each with a name.

Between two flushes (an epoch) such a disk may have kept any of the epoch's writes, or parts of them, besides all writes
of earlier epochs. Enumerated are the state at each flush; each prefix of the writes in the order of their completion;
each write lost alone; random subsets; and each write torn at 4 KiB and at 512 byte boundaries. `smallest` shrinks a
state to the fewest lost writes that still break it.
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

T = TypeVar("T")
#: The unit in which a file system writes (bytes).
PAGE = 4096
_HINT = "names look like 'epoch 17' or 'epoch 17, without write 3'; see docs/powercut.md"
_NAME = re.compile(
    r"epoch (?P<epoch>\d+)(?:, (?:after write (?P<after>\d+)|without writes? (?P<without>\d+(?:\+\d+)*)"
    r"|write (?P<torn>\d+) torn after (?P<bytes>\d+) bytes|subset (?P<subset>\d+) of seed (?P<seed>\d+)))?"
)


class CrashKind(enum.StrEnum):
    """How a state was chosen; in the order in which the kinds are tried."""

    FLUSH = "flush"
    PREFIX = "prefix"
    WITHOUT = "without one write"
    SUBSET = "random subset"
    TORN_PAGES = "torn at 4 KiB"
    TORN_SECTORS = "torn at 512 B"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The writes between two flushes, by their indices in the log; `end` is the index of the flush or the log's end."""

    number: int
    first: int
    writes: tuple[int, ...]
    end: int


@dataclass(frozen=True, kw_only=True)
class CrashState:
    """A disk that holds the log's first `position` entries, but of those in `kept` only so many of their first sectors.

    A power cut can lead to it as long as the log has at most `latest` entries.
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
    """The states of one log. `enumerate` starts at the epoch of entry `start`; `find` returns any state."""

    def __init__(self, entries: Sequence[LogEntry], *, start: int = 0, seed: int = 1, subsets: int = 2) -> None:
        self._entries = entries
        self._seed, self._subsets = seed, subsets
        self.epochs = epochs(entries)
        self.tried = [epoch for epoch in self.epochs if epoch.end >= start]

    def enumerate(self, kinds: Sequence[CrashKind] = tuple(CrashKind)) -> Iterator[CrashState]:
        """Yields each state of those kinds once by name; the same disk may come under several names (see digests)."""
        of = {CrashKind.FLUSH: _flushes, CrashKind.PREFIX: _prefixes, CrashKind.WITHOUT: _withouts,
              CrashKind.SUBSET: self._random, CrashKind.TORN_PAGES: self._torn_pages,
              CrashKind.TORN_SECTORS: self._torn_sectors}  # fmt: skip
        for kind in kinds:
            for epoch in self.tried:
                yield from of[kind](epoch)

    def find(self, name: str) -> CrashState:
        """Returns the state of that name.

        Raises:
            CallerError: this log has no state of that name.
        """
        match = _NAME.fullmatch(name)
        if match is None or int(match["epoch"]) >= len(self.epochs):
            raise CallerError(f"{name!r}: this recording has no such crash state", hint=_HINT)
        epoch = self.epochs[int(match["epoch"])]
        if match["without"]:
            state = self._lacking(epoch, [int(number) for number in match["without"].split("+")])
        else:
            state = self._parsed(epoch, {key: int(value) for key, value in match.groupdict().items() if value})
        if state is None or state.name != name:
            raise CallerError(f"{name!r}: no such crash state; the epoch has {len(epoch.writes)} writes", hint=_HINT)
        return state

    def lost(self, state: CrashState) -> list[int]:
        """Returns the numbers of its epoch's writes that a state lacks, whole or in part."""
        kept = dict(state.kept)
        return [number for number, place in enumerate(self.epoch(state).writes, start=1)
                if place >= state.position or place in kept]  # fmt: skip

    def lacking(self, state: CrashState, numbers: Sequence[int]) -> CrashState:
        """Returns the state of the same epoch that lacks exactly these writes."""
        return _without(self.epoch(state), numbers)

    def epoch(self, state: CrashState) -> Epoch:
        """Returns the epoch in which the power fails."""
        return next(epoch for epoch in self.epochs if epoch.end == state.latest)

    def _lacking(self, epoch: Epoch, numbers: Sequence[int]) -> CrashState | None:
        in_order = sorted(set(numbers)) == list(numbers)
        return _without(epoch, numbers) if in_order and numbers[0] >= 1 and numbers[-1] <= len(epoch.writes) else None

    def _parsed(self, epoch: Epoch, fields: dict[str, int]) -> CrashState | None:
        number = fields.get("after", fields.get("torn", 1))
        if not 1 <= number <= max(1, len(epoch.writes)) or (len(fields) > 1 and not epoch.writes):
            return None
        if "after" in fields:
            return _prefix(epoch, number)
        if "torn" in fields:
            return self._torn(epoch, number, fields["bytes"])
        return _subset(epoch, fields["subset"], fields["seed"]) if "subset" in fields else _flush(epoch)

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
    """Returns the state that holds exactly the log's first `count` entries."""
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


def smallest(lost: Sequence[T], breaks: Callable[[Sequence[T]], bool]) -> list[T]:
    """Returns a part of `lost` that still breaks, although it does not without any one of its members (ddmin).

    `lost` as a whole must break (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input").
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
