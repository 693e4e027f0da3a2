"""One shard of a run: leaves it its part of the tests, the same in each of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.errors import CallerError
from lifsea_testbed.plugin import ordering
from lifsea_testbed.plugin.items import fixtures_of
from lifsea_testbed.support.sanitize import printable
from lifsea_testbed.support.shard import ShardIndex

_DURATIONS, _PLAN = "lifsea_durations", "lifsea_plan"


class Sharding:
    """Deselects the tests of the other shards; `plan` is known once the tests are."""

    def __init__(self, shard: ShardIndex, durations: dict[str, float]) -> None:
        self.plan = ""
        self._index, self._count = shard.number, shard.count
        self._durations = durations

    @classmethod
    def start(cls, config: pytest.Config) -> Sharding:
        """Reads the durations, in the main process; its workers are told.

        Raises:
            pytest.UsageError: a file has none.
        """
        told = getattr(config, "workerinput", {}).get(_DURATIONS)
        try:
            read = ordering.read_durations(map(Path, config.option.shard_durations)) if told is None else told
        except CallerError as error:
            raise pytest.UsageError(printable(error.one_line)) from None
        return cls(config.option.shard, read)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells a worker of xdist what tests took."""
        node.workerinput[_DURATIONS] = self._durations

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves the tests of this shard, of those that the other options select."""
        names = [ordering.name(item.nodeid) for item in items]
        tests = {name: ordering.scenario(fixtures_of(item)) for name, item in zip(names, items, strict=True)}
        places = ordering.shards(tests, self._count, self._durations)
        others = [item for item, name in zip(items, names, strict=True) if places[name] != self._index]
        items[:] = [item for item, name in zip(items, names, strict=True) if places[name] == self._index]
        config.hook.pytest_deselected(items=others)
        self.plan = ordering.plan(places)
        if hasattr(config, "workeroutput"):
            config.workeroutput[_PLAN] = self.plan

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Learns the plan from a worker: the main process collects no tests itself."""
        self.plan = getattr(node, "workeroutput", {}).get(_PLAN, self.plan)
