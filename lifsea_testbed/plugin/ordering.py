"""The order of tests, and the scenario that each belongs to.

Tests of one scenario (such as the upgrade of a machine) stay together: each worker or host that runs one of them has to
run the scenario.
"""

from __future__ import annotations

import re
from collections.abc import Collection

#: The fixtures that need a boot, a reboot or an upgrade each time that they are set up → their scenario.
SCENARIOS = {"upgraded": "upgraded", "rolled_back": "upgraded", "rebooted": "rebooted", "twins": "twins",
             "watched": "watched", "travelled": "travelled", "troubled": "troubled",
             "joined": "joined", "ran": "joined", "interrupted": "joined", "static_pod": "static_pod",
             "late_metadata": "late_metadata", "hardened_metadata": "hardened_metadata",
             "corrected_clock": "corrected_clock", "outages": "outages"}  # fmt: skip
#: The moments at which the watched machine is looked at.
AFTER_BOOT, LATE = MOMENTS = ("after-boot", "late")
#: Further fixtures whose tests have machines of their own.
_OWN = {"own_machine", "machines", "power_cuts", "cold_boots"}
#: The suffix that xdist adds to the name of a test that belongs to a group.
_GROUP = re.compile(r"@[a-z_]+$")


def scenario_of(fixtures: Collection[str]) -> str | None:
    """Returns the scenario of a test with those fixtures, or nothing if it has none."""
    return next((name for fixture, name in SCENARIOS.items() if fixture in fixtures), None)


def sort_key(fixtures: Collection[str], moment: str = "") -> int:
    """Returns the sort key of a test with those fixtures: tests of shared machines run first, and the machines end.

    What looks at the watched machine late runs last of all, when that machine has been up longest.
    """
    if moment == LATE:
        return 3
    if _OWN.isdisjoint(fixtures) and scenario_of(fixtures) in (None, "watched"):
        return 0
    return 1 if "booted" in fixtures else 2


def without_group(test: str) -> str:
    """Returns the name of a test without the group that xdist added to it."""
    added = _GROUP.search(test)
    return test[: added.start()] if added and added[0][1:] in SCENARIOS.values() else test
