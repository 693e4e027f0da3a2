"""Deadlines: moments on the host's clock, passed down through all waits of one operation."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from lifsea_testbed.errors import CallerError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A moment on the host's monotonic clock (seconds), and the allowance from which it was computed (seconds)."""

    at: float
    allowance: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Returns the deadline `seconds` from now."""
        return cls(at=time.monotonic() + seconds, allowance=seconds)

    @property
    def remaining(self) -> float:
        """The seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def at_most(self, seconds: float) -> Deadline:
        """Returns the deadline `seconds` from now, or this one if it is earlier."""
        return Deadline.after(min(seconds, self.remaining))

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return time.monotonic() >= self.at


@dataclass(frozen=True, kw_only=True)
class TimeScale:
    """The factor by which durations on real hardware are scaled under emulation; the only place that scales them."""

    factor: float = 1.0

    def deadline(self, seconds: float) -> Deadline:
        """Returns the deadline for an operation that takes at most `seconds` on real hardware."""
        return Deadline.after(seconds * self.factor)


#: The scale of a machine that is as fast as the hardware.
HARDWARE_SPEED = TimeScale()


def seconds(text: str, option: str) -> float:
    """Returns the duration (seconds) in the value of a command line option: 90s, 30m or 2h.

    Raises:
        CallerError: it is not a duration, or one of no length; the message names the option.
    """
    match = re.fullmatch(r"(\d{1,9})([smh]?)", text, re.ASCII)
    if match is None or not int(match[1]):
        raise CallerError(f"{option} {text}: not a duration", hint="90s, 30m or 2h")
    return int(match[1]) * float(_UNITS[match[2]])
