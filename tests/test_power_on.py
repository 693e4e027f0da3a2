"""A guest whose timer does not tick, or whose QEMU failed at once, is powered on again; nothing else is tried twice."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lifsea_testbed.errors import EmulatorFailed, Explained, GuestCrashed, LaunchError, TimerStarved
from lifsea_testbed.machine import Machine
from lifsea_testbed.preflight import Wish, prepare
from tests import quick
from tests.boot_sector import slow_image


class Starving(Machine):
    """A machine of which each power-on but the last ends so."""

    def __init__(self, *ends: type[Explained], writes: bool = False) -> None:
        self.boots, self.closed, self._ends, self._writes = [], 0, list(ends), writes

    def start(self) -> None:
        made: Any = SimpleNamespace(close=self._close, left_no_trace=not self._writes)
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


@pytest.mark.parametrize("writes", [False, True])
def test_an_emulator_that_failed_is_tried_again_unless_the_guest_had_written(writes: bool) -> None:
    machine = Starving(EmulatorFailed, writes=writes)
    with pytest.raises(EmulatorFailed) if writes else contextlib.nullcontext():
        machine.power_on()
    assert machine.closed == (0 if writes else 1)


@pytest.mark.parametrize("end", [GuestCrashed, LaunchError])
def test_any_other_end_is_the_end(end: type[Explained]) -> None:
    machine = Starving(end)
    with pytest.raises(end):
        machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 0)


def test_a_real_emulator_that_fails_while_it_boots_is_started_again(tmp_path: Path) -> None:
    image = slow_image(tmp_path / "slow.raw", "." * 440 + "\nup and running\n")
    (tmp_path / "quick.toml").write_text(quick.PROFILE)
    bench = prepare(Wish(image=str(image), next_image=None, profile=str(tmp_path / "quick.toml"), accelerator="tcg",
                         instance_type="ecs.g7.large", reports=tmp_path / "reports")).bench()  # fmt: skip
    failed: list[int] = []

    def fail(console: Path) -> None:
        while not (console.exists() and "..." in console.read_text("utf-8", "replace")):
            time.sleep(0.01)
        failed.extend(child.pid for child in psutil.Process().children() if child.name().startswith("qemu-system"))
        os.kill(failed[0], signal.SIGABRT)

    try:
        threading.Thread(target=fail, args=(tmp_path / "reports/machines/slow/transcript-1.txt",), daemon=True).start()
        with bench.machine("slow") as machine:
            machine.wait_until_ready()
            assert [machine.boot.process.pid] != failed and machine.boot.left_no_trace
        assert len(failed) == 1
    finally:
        bench.close()
