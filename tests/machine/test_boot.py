"""A guest whose timer does not tick, or whose QEMU failed early, is powered on again; no other failure is retried."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.errors import EmulatorFailed, Explained, GuestCrashed, LaunchError, TimerStarved
from lifsea_testbed.machine.machine import Machine


class Starving(Machine):
    """A machine whose power-ons end with these errors, until none is left."""

    def __init__(self, *ends: type[Explained], writes: bool = False) -> None:
        self.boots, self.closed, self._ends, self._writes = [], 0, list(ends), writes

    def start(self) -> None:
        made: Any = SimpleNamespace(close=self._close, disk_is_untouched=not self._writes)
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


def test_a_host_that_is_always_too_busy_is_an_error() -> None:
    machine = Starving(*[TimerStarved] * 3)
    with pytest.raises(TimerStarved):
        machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 2)


@pytest.mark.parametrize("end", [EmulatorFailed, TimerStarved])
@pytest.mark.parametrize("writes", [False, True])
def test_a_failure_of_the_host_is_tried_again_unless_the_guest_had_written(end: type[Explained], writes: bool) -> None:
    machine = Starving(end, writes=writes)
    with pytest.raises(end) if writes else contextlib.nullcontext():
        machine.power_on()
    assert machine.closed == (0 if writes else 1)


@pytest.mark.parametrize("end", [GuestCrashed, LaunchError])
def test_any_other_end_is_final(end: type[Explained]) -> None:
    machine = Starving(end)
    with pytest.raises(end):
        machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 0)
