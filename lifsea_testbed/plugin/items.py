"""What is known of a test that runs: its claim, its machines, and which try it is."""

from __future__ import annotations

import pytest

from lifsea_testbed.machine.machine import Machine


def machines_of(item: pytest.Item) -> dict[str, Machine]:
    """Returns the machines that the test was given, by the names of their fixtures."""
    values = getattr(item, "funcargs", {})
    fleet = {f"machine {number}": machine
             for number, machine in enumerate(getattr(values.get("machines"), "machines", ()), start=1)}  # fmt: skip
    held = {name: getattr(value, "machine", value) for name, value in values.items()}
    return fleet | {name: machine for name, machine in held.items() if isinstance(machine, Machine)}


def fixtures_of(item: pytest.Item) -> tuple[str, ...]:
    """Returns the names of the fixtures that the test asks for, by way of others as well."""
    return tuple(getattr(item, "fixturenames", ()))


def claim_of(item: pytest.Item) -> str | None:
    """Returns the claim that the test judges, if it judges one."""
    marker = item.get_closest_marker("claim")
    return str(marker.args[0]) if marker else None


def attempt_of(item: pytest.Item) -> int:
    """Returns which try of the test this is, from 1, as pytest-rerunfailures counts them."""
    return int(getattr(item, "execution_count", 1))
