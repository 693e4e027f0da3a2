"""Steps: what a machine is made to do, told to whoever listens while it happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar

Listener = Callable[[str], AbstractContextManager[object]]
_listener: ContextVar[Listener] = ContextVar("listener", default=contextlib.nullcontext)


def listen(listener: Listener = contextlib.nullcontext) -> None:
    """Has each step from now on lie within what the listener returns for its title; without a listener, nobody's."""
    _listener.set(listener)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Tells of one step; also a decorator of what is one step each time it is called."""
    with _listener.get()(title):
        yield
