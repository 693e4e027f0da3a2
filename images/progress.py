"""Progress of a build: one line a step with its duration, and a spinner on a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console

_console = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Shows a step while it runs, and its duration at its end."""
    started = time.monotonic()
    if not _console.is_terminal:
        _console.print(f"  {title} …")
    with _console.status(f"{title} …"):
        yield
    _console.print(f"  {title}: {time.monotonic() - started:.1f} s")


def line(text: str) -> None:
    """Prints one line."""
    _console.print(text)
