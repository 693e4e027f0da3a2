"""Letting go: a machine that tests have in common ends with the last test that has a use for it, not with the run.

An idle guest still takes memory, and under emulation a processor's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Generator
from typing import Any

import pytest

from lifsea_testbed.plugin.items import fixtures_of

#: Whoever shares the machine of `run.shared` is counted under this name.
_SHARED = "machine, shared"


class LetsGo:
    """Ends the fixtures of the whole session, those of the test bed, as soon as no test that is left asks for them.

    A worker of xdist does not know which tests it will get, so there they end with the session.
    """

    def __init__(self, modules: Container[str], close_shared: Callable[[], None]) -> None:
        self._modules = modules
        self._left: Counter[str] = Counter()
        self._made: dict[str, Callable[[], None]] = {_SHARED: close_shared}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Counts who will ask for what."""
        for item in session.items:
            self._left.update(_asked(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Counts the test as one that has asked: it is the last for what no later one asks for."""
        self._left.subtract(_asked(item))
        return (yield)

    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> None:
        """Notes how to end the fixture."""
        if fixturedef.scope == "session" and fixturedef.func.__module__ in self._modules:
            self._made[fixturedef.argname] = lambda: fixturedef.finish(request)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Ends what no later test asks for, the newest first; what has ended already takes that as nothing."""
        result = yield
        for end in reversed([end for name, end in self._made.items() if self._left[name] <= 0]):
            end()
        return result


def _asked(item: pytest.Item) -> set[str]:
    shares = {_SHARED} if item.get_closest_marker("shares_machine") else set()
    return shares | set(fixtures_of(item))
