"""Shards: one run on several hosts that know nothing of each other, each with its part of the tests."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from lifsea_testbed.errors import CallerError
from lifsea_testbed.plugin import ordering, xdist
from lifsea_testbed.plugin.items import fixtures_of
from lifsea_testbed.support.shard import ShardIndex

#: The result of a worker: the digest of the assignment of tests to shards.
PLAN = "lifsea_plan"


class ShardSelection:
    """Deselects the tests of the other shards, in each process of the run alike."""

    def __init__(self, shard: ShardIndex, durations: Mapping[str, float]) -> None:
        self.plan = ""
        self._shard = shard
        self._durations = durations

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keeps the tests of this shard, of those that the other options select."""
        names = [ordering.without_group(item.nodeid) for item in items]
        tests = {name: ordering.scenario_of(fixtures_of(item)) for name, item in zip(names, items, strict=True)}
        places = assign(tests, self._shard.count, self._durations)
        others = [item for item, name in zip(items, names, strict=True) if places[name] != self._shard.number]
        items[:] = [item for item, name in zip(items, names, strict=True) if places[name] == self._shard.number]
        config.hook.pytest_deselected(items=others)
        self.plan = plan_digest(places)
        xdist.send_result(config, PLAN, self.plan)


def read_durations(files: Iterable[Path]) -> dict[str, float]:
    """Returns the seconds that each test took, by the `tests` of every run.json; the slowest counts.

    Raises:
        CallerError: a file is none.
    """
    found: dict[str, float] = {}
    for path in files:
        try:
            tests = json.loads(path.read_text("utf-8"))["tests"]
            found |= {str(test): max(float(seconds), found.get(test, 0.0)) for test, seconds in tests.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CallerError(f"--shard-durations {path}: holds no durations of tests: {error!r}",
                              hint="a run writes them to run.json among its reports") from None
    return found


def assign(tests: Mapping[str, str | None], count: int, durations: Mapping[str, float]) -> dict[str, int]:
    """Returns the shard (1 to `count`) of each test, given with its scenario; the order of the tests says nothing.

    Without durations the name of a test, or of its scenario, alone decides: another test changes nothing for it. With
    them the longest goes first, each to the shard that has the least so far; an unknown test counts like most.
    """
    units: dict[str, list[str]] = {}
    for test, its_scenario in tests.items():
        units.setdefault(its_scenario or test, []).append(test)
    if known := [durations[test] for test in tests if test in durations]:
        usual = statistics.median(known)
        weights = {unit: sum(durations.get(test, usual) for test in sorted(units[unit])) for unit in units}
        places = _balanced(weights, count)
    else:
        places = {unit: int(hashlib.sha256(unit.encode()).hexdigest(), 16) % count + 1 for unit in units}
    return {test: places[unit] for unit, together in units.items() for test in together}


def plan_digest(places: Mapping[str, int]) -> str:
    """Returns a digest that shards of one run have in common: the same tests, assigned alike."""
    lines = "".join(f"{place} {test}\n" for test, place in sorted(places.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _balanced(weights: Mapping[str, float], count: int) -> dict[str, int]:
    loads = dict.fromkeys(range(1, count + 1), 0.0)
    places = {}
    for unit in sorted(weights, key=lambda unit: (-weights[unit], unit)):
        places[unit] = min(loads, key=lambda shard: (loads[shard], shard))
        loads[places[unit]] += weights[unit]
    return places
