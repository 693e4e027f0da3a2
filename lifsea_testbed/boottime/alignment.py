"""Alignment: where the guest's monotonic clock lies on the host's, and how sure that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

#: So many exchanges narrow it down; the best of them decide.
EXCHANGES = 12


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The host's clock before a question, the guest's while it answered, and the host's afterwards (seconds)."""

    before: float
    guest: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What has to be added to the guest's clock to get the host's, at most `error` wrong either way (seconds)."""

    offset: float
    error: float

    def host(self, guest: float) -> float:
        """Returns the host's time of a moment of the guest's clock."""
        return guest + self.offset


def align(exchanges: Iterable[Exchange]) -> Alignment:
    """Returns the alignment that every exchange allows.

    In each of them the guest read its clock between two readings of the host's, so the offset lies between `before -
    guest` and `after - guest`; all together leave what lies between the largest of the one and the smallest of the
    other. Clocks that drift apart meanwhile may leave nothing: then the narrowest exchange decides.
    """
    all_of_them = list(exchanges)
    low = max(each.before - each.guest for each in all_of_them)
    high = min(each.after - each.guest for each in all_of_them)
    if low > high:
        best = min(all_of_them, key=lambda each: each.after - each.before)
        low, high = best.before - best.guest, best.after - best.guest
    return Alignment(offset=(low + high) / 2, error=(high - low) / 2)


def exchange(read: Callable[[], float]) -> Exchange:
    """Reads the guest's clock between two readings of the host's."""
    before = time.monotonic()
    guest = read()
    return Exchange(before=before, guest=guest, after=time.monotonic())
