"""The values of command line options, one parser for each kind: the pytest plugin and the commands share them."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from typing import Any

from lifsea_testbed.errors import CallerError
from lifsea_testbed.support.deadline import seconds

#: No option is for a number of more digits.
_DIGITS = 9
#: The largest share or change that an option may name (percent).
_LARGEST_PERCENT = 100.0


def count(text: str, option: str, *, least: int = 0, most: int | None = None, hint: str = "") -> int:
    """Returns the whole number in the value of an option.

    Raises:
        CallerError: it is not a number, below `least` or above `most`; the message names the option.
    """
    expected = f"a whole number from {least} {'on' if most is None else f'to {most}'}"
    number = int(text) if re.fullmatch(rf"[+-]?\d{{1,{_DIGITS}}}", text, re.ASCII) else None
    if number is None or number < least or (most is not None and number > most):
        raise CallerError(f"{option} {text}: not {expected}", hint=hint)
    return number


def percent(text: str, option: str) -> float:
    """Returns the share (0 to 100) in the value of an option.

    Raises:
        CallerError: it is not a number, or out of that range; the message names the option.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= _LARGEST_PERCENT:
        raise CallerError(f"{option} {text}: not a number from 0 to {_LARGEST_PERCENT:.0f}", hint="1 is one percent")
    return number


def duration(text: str, option: str) -> str:
    """Returns the value of an option after making sure that it is a duration.

    Raises:
        CallerError: it is none, or of no length; the message names the option.
    """
    seconds(text, option)
    return text


class Once(argparse.Action):
    """Stores the value of an option that may not be given twice with different values.

    Raises:
        CallerError: it was given before, with another value.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
                 values: str | Sequence[Any] | None, option_string: str | None = None) -> None:
        """Stores the value."""
        before = getattr(namespace, self.dest, None)
        if before not in (None, values):
            raise CallerError(f"{option_string} {values}: it was given before, as {before}",
                              hint="one run has one image; run once for each")  # fmt: skip
        setattr(namespace, self.dest, values)
