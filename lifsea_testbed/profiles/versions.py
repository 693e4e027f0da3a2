"""Versions of an OS and ranges of them, compared number by number: 3.10 is later than 3.9, and 3.40 is not 3.4."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

#: The numbers at the start of a version, such as 3.4.6 of 3.4.6-1.al8; release files may have a v before them.
_NUMBERS = re.compile(r"v?([0-9]{1,18}(?:\.[0-9]{1,18})*)")
_BOUND = re.compile(r"(>=|<)\s*([0-9]{1,18}(?:\.[0-9]{1,18})*)")


@dataclass(frozen=True, kw_only=True)
class OsVersion:
    """A version as far as it is known: 3 is every version from 3 on and before 4; no numbers are every version."""

    numbers: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> OsVersion:
        """Returns the version that the text starts with; anything behind its numbers is ignored."""
        found = _NUMBERS.match(text)
        return cls(numbers=_numbers(found[1]) if found else ())

    def refines(self, other: OsVersion) -> bool:
        """Returns whether this is the other version, known at least as exactly: 3.6.0 refines 3."""
        return self.numbers[:len(other.numbers)] == other.numbers


@dataclass(frozen=True, kw_only=True)
class VersionRange:
    """The versions from `start` on and before `end`; without a bound it has none on that side."""

    start: tuple[int, ...] | None = None
    end: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Returns the range `>=A`, `<B` or `>=A, <B`; an empty text is every version.

        Raises:
            ValueError: it is none of those.
        """
        bounds: dict[str, tuple[int, ...]] = {}
        for part in filter(None, map(str.strip, text.split(","))):
            found = _BOUND.fullmatch(part)
            if not found or found[1] in bounds:
                raise ValueError(f"{text!r} is not a range of versions such as '>=3.4, <3.5'")
            bounds[found[1]] = _numbers(found[2])
        if len(bounds) == 2 and _compared(bounds[">="], bounds["<"]) >= 0:
            raise ValueError(f"{text!r} is a range without any version")
        return cls(start=bounds.get(">="), end=bounds.get("<"))

    def holds(self, version: OsVersion) -> bool:
        """Returns whether every version that this one may be is in the range."""
        first, after = version.numbers, _successor(version.numbers)
        return (self.start is None or (bool(first) and _compared(first, self.start) >= 0)) and \
            (self.end is None or (bool(first) and _compared(after, self.end) <= 0))  # fmt: skip

    def may_hold(self, version: OsVersion) -> bool:
        """Returns whether a version that this one may be is in the range."""
        first, after = version.numbers, _successor(version.numbers)
        return not first or ((self.start is None or _compared(after, self.start) > 0)
                             and (self.end is None or _compared(first, self.end) < 0))  # fmt: skip


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _successor(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """The first version after all that start with those numbers."""
    return (*numbers[:-1], numbers[-1] + 1) if numbers else ()


def _compared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Below, equal to or above 0, as one version is before, at or after the other; 3.4 is 3.4.0."""
    return next((left - right for left, right in itertools.zip_longest(one, other, fillvalue=0) if left != right), 0)
