"""A guest whose timer does not tick is powered on again; nothing else is tried twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.errors import Explained, GuestCrashed, TimerStarved
from lifsea_testbed.machine import Machine


class Starving(Machine):
    """A machine of which each power-on but the last ends so."""

    def __init__(self, *ends: type[Explained]) -> None:
        self.boots, self.closed, self._ends = [], 0, list(ends)

    def start(self) -> None:
        made: Any = SimpleNamespace(close=self._close)
        self.boots.append(made)

    def _close(self) -> None:
        self.closed += 1

    def _await_shell(self) -> None:
        if self._ends:
            raise self._ends.pop(0)("it ended")


def test_a_starved_timer_is_tried_again() -> None:
    machine = Starving(TimerStarved, TimerStarved)
    machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 2)


def test_a_host_that_never_has_time_is_given_up() -> None:
    machine = Starving(*[TimerStarved] * 3)
    with pytest.raises(TimerStarved):
        machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 2)


def test_any_other_panic_is_the_end() -> None:
    machine = Starving(GuestCrashed)
    with pytest.raises(GuestCrashed):
        machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 0)
