"""What a person sees while an image is built: one line a step, with a spinner on a terminal, and its duration."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console

_console = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Shows that a step is under way, and how long it took once it is done."""
    started = time.monotonic()
    if not _console.is_terminal:
        _console.print(f"  {what} …")
    with _console.status(f"{what} …"):
        yield
    _console.print(f"  {what}: {time.monotonic() - started:.1f} s")


def say(what: str) -> None:
    """Prints one line."""
    _console.print(what)
