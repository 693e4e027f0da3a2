"""Deadlines: one moment on the host's clock, handed down through every wait that belongs to it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from lifsea_testbed.errors import CallerError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A moment on the host's monotonic clock (seconds), and the allowance that led to it."""

    at: float
    allowance: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Returns the deadline that lies `seconds` from now."""
        return cls(at=time.monotonic() + seconds, allowance=seconds)

    @property
    def remaining(self) -> float:
        """Seconds that are left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return time.monotonic() >= self.at


@dataclass(frozen=True, kw_only=True)
class TimeScale:
    """How much longer than on real hardware everything may take; scaled once, here, for emulation."""

    factor: float = 1.0

    def deadline(self, seconds: float) -> Deadline:
        """Returns the deadline for something that takes at most `seconds` on real hardware."""
        return Deadline.after(seconds * self.factor)


def seconds(text: str) -> float:
    """Returns a length of time as it is written on the command line: 90s, 30m or 2h.

    Raises:
        CallerError: it is none.
    """
    match = re.fullmatch(r"(\d+)([smh]?)", text, re.ASCII)
    if match is None:
        raise CallerError(f"{text}: no length of time", hint="90s, 30m or 2h")
    return int(match[1]) * float(_UNITS[match[2]])
