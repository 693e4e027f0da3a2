"""How tests are spread: over the workers of one host, and over hosts.

Tests of one scenario (a machine that was upgraded, say) belong together: each worker or host that has one of them has
to bring the scenario about.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lifsea_testbed.errors import CallerError

#: Fixtures that cost a boot, a reboot or an upgrade each time that they are made → the scenario that they belong to.
SCENARIOS = {"upgraded": "upgraded", "rolled_back": "upgraded", "rebooted": "rebooted", "twins": "twins",
             "watched": "watched", "travelled": "travelled", "troubled": "troubled",
             "joined": "joined", "ran": "joined", "interrupted": "joined", "static_pod": "static_pod"}  # fmt: skip
#: Further fixtures whose tests have machines of their own.
_OWN = {"own_machine", "machines", "power_cuts", "cold_boots"}
#: What xdist adds to the name of a test that belongs to a group.
_GROUP = re.compile(r"@[a-z_]+$")


def scenario(fixtures: Collection[str]) -> str | None:
    """Returns the scenario that a test with those fixtures belongs to, if it does."""
    return next((name for fixture, name in SCENARIOS.items() if fixture in fixtures), None)


def turn(fixtures: Collection[str]) -> int:
    """Returns the turn of a test with those fixtures, the lowest first: machines that many share are let go early."""
    if _OWN.isdisjoint(fixtures) and scenario(fixtures) in (None, "watched"):
        return 0
    return 1 if "booted" in fixtures else 2


def name(test: str) -> str:
    """Returns the name of a test without what xdist added to it."""
    added = _GROUP.search(test)
    return test[: added.start()] if added and added[0][1:] in SCENARIOS.values() else test


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
            raise CallerError(f"{path}: no durations of tests in it: {error!r}", hint="a run writes them to run.json "
                              "among its reports") from None
    return found


def shards(tests: Mapping[str, str | None], count: int, durations: Mapping[str, float]) -> dict[str, int]:
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


def plan(places: Mapping[str, int]) -> str:
    """Returns a digest by which shards can tell whether they were cut from one cloth: the same tests, cut alike."""
    lines = "".join(f"{place} {test}\n" for test, place in sorted(places.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _balanced(weights: Mapping[str, float], count: int) -> dict[str, int]:
    loads = dict.fromkeys(range(1, count + 1), 0.0)
    places = {}
    for unit in sorted(weights, key=lambda unit: (-weights[unit], unit)):
        places[unit] = min(loads, key=lambda shard: (loads[shard], shard))
        loads[places[unit]] += weights[unit]
    return places
