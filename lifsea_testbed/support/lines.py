"""Lines of text: they end at a newline and nowhere else."""

from __future__ import annotations

from typing import AnyStr


def split_lines(text: AnyStr) -> list[AnyStr]:
    """Returns the lines of the text, without their newlines.

    `str.splitlines` also splits at vertical tabs, form feeds, U+0085, U+2028 and others, which a path, a listing or the
    output of a command may hold.
    """
    newline = "\n" if isinstance(text, str) else b"\n"
    lines = text.split(newline)
    return lines if lines[-1] else lines[:-1]
