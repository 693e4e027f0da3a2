"""The order of tests, and which of them belong to one scenario.

Tests of one scenario (a machine that was upgraded, say) belong together: each worker or host that runs one of them has
to run the scenario.
"""

from __future__ import annotations

import re
from collections.abc import Collection

#: Fixtures that cost a boot, a reboot or an upgrade each time that they are made → the scenario that they belong to.
SCENARIOS = {"upgraded": "upgraded", "rolled_back": "upgraded", "rebooted": "rebooted", "twins": "twins",
             "watched": "watched", "travelled": "travelled", "troubled": "troubled",
             "joined": "joined", "ran": "joined", "interrupted": "joined", "static_pod": "static_pod"}  # fmt: skip
#: Further fixtures whose tests have machines of their own.
_OWN = {"own_machine", "machines", "power_cuts", "cold_boots"}
#: What xdist adds to the name of a test that belongs to a group.
_GROUP = re.compile(r"@[a-z_]+$")


def scenario_of(fixtures: Collection[str]) -> str | None:
    """Returns the scenario that a test with those fixtures belongs to, if it does."""
    return next((name for fixture, name in SCENARIOS.items() if fixture in fixtures), None)


def sort_key(fixtures: Collection[str]) -> int:
    """Returns the sort key of a test with those fixtures: machines that many tests share are used, and ended, first."""
    if _OWN.isdisjoint(fixtures) and scenario_of(fixtures) in (None, "watched"):
        return 0
    return 1 if "booted" in fixtures else 2


def without_group(test: str) -> str:
    """Returns the name of a test without the group that xdist added to it."""
    added = _GROUP.search(test)
    return test[: added.start()] if added and added[0][1:] in SCENARIOS.values() else test
