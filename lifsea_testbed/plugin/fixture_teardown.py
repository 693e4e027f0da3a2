"""Early teardown: a session fixture with a machine is finished after the last test that uses it, not at the end.

An idle guest still takes memory, and under emulation processor time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Generator
from typing import Any

import pytest

from lifsea_testbed.plugin.items import fixtures_of

#: The name under which the tests that use the shared machine are counted.
_SHARED = "machine, shared"


class EarlyTeardown:
    """Finishes the session fixtures of those modules after the last test that uses them.

    A worker of xdist does not know which tests it will get; there, fixtures are finished with the session.
    """

    def __init__(self, modules: Container[str], close_shared: Callable[[], None]) -> None:
        self._modules = modules
        self._remaining: Counter[str] = Counter()
        self._finishers: dict[str, Callable[[], None]] = {_SHARED: close_shared}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Counts the tests that use each fixture."""
        for item in session.items:
            self._remaining.update(_fixtures_used(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Subtracts the test from the counts, before its own teardown reads them."""
        self._remaining.subtract(_fixtures_used(item))
        return (yield)

    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> None:
        """Records the function that finishes the fixture."""
        if fixturedef.scope == "session" and fixturedef.func.__module__ in self._modules:
            self._finishers[fixturedef.argname] = lambda: fixturedef.finish(request)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Finishes the fixtures that no later test uses, the newest first; finishing one twice does nothing."""
        result = yield
        for finish in reversed([finish for name, finish in self._finishers.items() if self._remaining[name] <= 0]):
            finish()
        return result


def _fixtures_used(item: pytest.Item) -> set[str]:
    used = set(fixtures_of(item))
    return used | {_SHARED} if "machine" in used and item.get_closest_marker("shares_machine") else used
