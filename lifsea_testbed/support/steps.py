"""Steps: named operations on a machine, reported to a listener while they run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar

Listener = Callable[[str], AbstractContextManager[object]]
_listener: ContextVar[Listener] = ContextVar("listener", default=contextlib.nullcontext)


def listen(listener: Listener = contextlib.nullcontext) -> None:
    """Runs each step from now on within the context that the listener returns for its title; by default within none."""
    _listener.set(listener)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Reports one step; also a decorator for a function of which each call is one step."""
    with _listener.get()(title):
        yield
