"""The facts of a test that pytest stores: what it judges, its machines, its fixtures, the number of its attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lifsea_testbed.machine.machine import Machine
    from lifsea_testbed.scenarios.cross_check import CrossCheck


def claim(name: str) -> pytest.MarkDecorator:
    """Marks a test as a judge of that claim.

    Raises:
        KeyError: claims.toml has no such claim.
    """
    from lifsea_testbed.profiles.claims import catalogue

    return pytest.mark.claim(catalogue()[name].id)


def machines_of(item: pytest.Item) -> dict[str, Machine]:
    """Returns the machines among the test's fixtures, by the names of the fixtures."""
    from lifsea_testbed.machine.machine import Machine

    values = getattr(item, "funcargs", {})
    fleet = {f"machine {number}": machine
             for number, machine in enumerate(getattr(values.get("machines"), "machines", ()), start=1)}  # fmt: skip
    held = {name: getattr(value, "machine", value) for name, value in values.items()}
    return fleet | {name: machine for name, machine in held.items() if isinstance(machine, Machine)}


def cross_check_of(item: pytest.Item) -> CrossCheck | None:
    """Returns the cross-check of the test, if it has made one."""
    from lifsea_testbed.scenarios.cross_check import CrossCheck

    found = getattr(item, "funcargs", {}).get("cross_check")
    return found if isinstance(found, CrossCheck) else None


def fixtures_of(item: pytest.Item) -> tuple[str, ...]:
    """Returns the names of the fixtures that the test uses, directly or through others."""
    return tuple(getattr(item, "fixturenames", ()))


def moment_of(item: pytest.Item) -> str:
    """Returns the moment at which the test looks at the watched machine (ordering.MOMENTS), or nothing."""
    call = getattr(item, "callspec", None)
    return str(call.params.get("watched", "")) if call else ""


def claim_of(item: pytest.Item) -> str | None:
    """Returns the claim that the test judges, if it judges one."""
    marker = item.get_closest_marker("claim")
    return str(marker.args[0]) if marker else None


def judges_hardware(item: pytest.Item) -> bool:
    """Whether the test judges the test bed's model of the hardware, and not the image."""
    return item.get_closest_marker("hardware_model") is not None


def attempt_of(item: pytest.Item) -> int:
    """Returns the number of this attempt at the test, from 1, as pytest-rerunfailures counts them."""
    return int(getattr(item, "execution_count", 1))
