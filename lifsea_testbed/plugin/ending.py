"""The end of a run: what fails there is never the image's fault."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest


class Ending:
    """Makes a run broken whose end fails, in whichever plugin: pytest would end with 1, which says *fail*."""

    def __init__(self, break_off: Callable[[pytest.Session, Exception], None]) -> None:
        self._break_off = break_off

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Breaks the run off if a plugin raises an exception."""
        try:
            return (yield)
        except Exception as error:
            self._break_off(session, error)
            return None
