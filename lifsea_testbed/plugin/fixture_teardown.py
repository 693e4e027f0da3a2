"""Early teardown: a session fixture with a machine is finished after the last test that uses it, not with the run.

An idle guest still takes memory, and under emulation processor time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Generator
from typing import Any

import pytest

from lifsea_testbed.plugin.items import fixtures_of

#: The name under which users of the shared machine are counted.
_SHARED = "machine, shared"


class EarlyTeardown:
    """Finishes session fixtures of those modules after their last user.

    A worker of xdist does not know which tests it will get: there, fixtures end with the session.
    """

    def __init__(self, modules: Container[str], close_shared: Callable[[], None]) -> None:
        self._modules = modules
        self._left: Counter[str] = Counter()
        self._finish: dict[str, Callable[[], None]] = {_SHARED: close_shared}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Counts the users of each fixture."""
        for item in session.items:
            self._left.update(_used(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Takes the test off the count: it is the last user of each fixture that no later test uses."""
        self._left.subtract(_used(item))
        return (yield)

    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> None:
        """Records how to finish the fixture."""
        if fixturedef.scope == "session" and fixturedef.func.__module__ in self._modules:
            self._finish[fixturedef.argname] = lambda: fixturedef.finish(request)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Finishes the fixtures that no later test uses, the newest first; to finish one twice does nothing."""
        result = yield
        for finish in reversed([finish for name, finish in self._finish.items() if self._left[name] <= 0]):
            finish()
        return result


def _used(item: pytest.Item) -> set[str]:
    shares = {_SHARED} if item.get_closest_marker("shares_machine") else set()
    return shares | set(fixtures_of(item))
