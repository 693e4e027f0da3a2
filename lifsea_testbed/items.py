"""What is known of a test that runs: its claim, its machines, and which try it is."""

from __future__ import annotations

import pytest

from lifsea_testbed.machine import Machine

#: The fixtures that are a machine, or hold one.
_MACHINES = ("machine", "booted", "watched", "own_machine", "twins", "rebooted", "upgraded", "rolled_back",
             "travelled", "troubled", "joined", "ran", "interrupted", "static_pod")  # fmt: skip


def machines_of(item: pytest.Item) -> dict[str, Machine]:
    """Returns the machines that the test was given, by the names of their fixtures."""
    values = getattr(item, "funcargs", {})
    fleet = {f"machine {number}": machine
             for number, machine in enumerate(getattr(values.get("machines"), "machines", ()), start=1)}  # fmt: skip
    return fleet | {name: getattr(values[name], "machine", values[name]) for name in _MACHINES
            if name in values and name in item.fixturenames}  # type: ignore[attr-defined] # fmt: skip


def claim_of(item: pytest.Item) -> str | None:
    """Returns the claim that the test judges, if it judges one."""
    marker = item.get_closest_marker("claim")
    return str(marker.args[0]) if marker else None


def attempt_of(item: pytest.Item) -> int:
    """Returns which try of the test this is, from 1, as pytest-rerunfailures counts them."""
    return int(getattr(item, "execution_count", 1))
