"""The basic scenarios, on a machine whose files and identity are a dictionary."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifsea_testbed.errors import HostError
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import BootSection
from lifsea_testbed.scenarios import basics
from lifsea_testbed.support.deadline import TimeScale
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, KEPT_IN_HOME, KEPT_IN_VAR
from lifsea_testbed.support.liveness import Liveness


class FakeMachine:
    """Keeps what is written, but for what a reboot loses; each reboot has another request and may have another id."""

    def __init__(self, *, loses: str = "", new_identity: bool = False) -> None:
        self.requests = [SimpleNamespace(path="/latest/user-data")]
        self._files: dict[str, str] = {}
        self._loses, self._new_identity, self._boots = loses, new_identity, 1
        self.guest: Any = SimpleNamespace(
            files=SimpleNamespace(read=self._files.get, write=self._files.__setitem__),
            system=SimpleNamespace(identity=self._identity, user_data_runs=lambda: ["0"]),
            kernel=SimpleNamespace(uptime=lambda: 60.0))  # fmt: skip

    def _identity(self) -> dict[str, str]:
        return {"/etc/machine-id": str(self._boots if self._new_identity else 1)}

    def wait_until_ready(self) -> None:
        pass

    def wait_until(self, question: Any, what: str, *, within: float) -> None:
        assert question()

    def reboot(self) -> None:
        self._boots += 1
        self._files.pop(self._loses, None)
        self.requests.append(SimpleNamespace(path="/latest/meta-data/instance-id"))


def rebooted(machine: FakeMachine) -> basics.Rebooted:
    return basics.reboot(cast(Machine, machine))


def test_a_reboot_reports_what_was_kept_and_requested_again() -> None:
    seen = rebooted(FakeMachine())
    assert seen.kept == seen.written == {path: path for path in (KEPT_IN_ETC, KEPT_IN_VAR, KEPT_IN_HOME)}
    assert seen.requested_again == ["/latest/meta-data/instance-id"]
    assert seen.identities[0] == seen.identities[1]


def test_a_file_that_is_lost_and_an_identity_that_changes_are_seen() -> None:
    seen = rebooted(FakeMachine(loses=KEPT_IN_VAR, new_identity=True))
    assert seen.kept[KEPT_IN_VAR] is None and seen.kept != seen.written
    assert seen.identities[0] != seen.identities[1]


class WatchedMachine(FakeMachine):
    """Its boot finished at 20 s of uptime; each look at its uptime takes a second of it."""

    def __init__(self, planned: list[str], wakings: list[float] | None = None) -> None:
        super().__init__()
        self.uptime, self.started = 21.0, list[float]()
        self.guest.boot_times = SimpleNamespace(manager=lambda: {"finished": 20.0})
        self.guest.kernel = SimpleNamespace(uptime=self._later)
        self.guest.pending = SimpleNamespace(start=self._start, wakings=lambda: wakings or [])
        self.access_method = "user-data"
        self._planned = planned

    def wait_until(self, question: Any, what: str, *, within: float) -> None:
        while not question():
            assert self.uptime < 1000

    def _later(self) -> float:
        self.uptime += 1.0
        return self.uptime

    def _start(self, spared: list[str]) -> list[str]:
        assert spared == ["spared.*"]
        self.started.append(self.uptime)
        return self._planned


def test_a_machine_is_watched_for_a_while_after_its_boot() -> None:
    """A machine that boots slowly has been up for long when its boot ends, and what comes later has not come yet."""
    machine = WatchedMachine([])
    basics.watch(cast(Machine, machine), 30.0)
    assert machine.uptime == 50.0


@pytest.mark.parametrize(("planned", "wakings", "looked_at"), [
    ([], [], 61.0), (["late.service"], [], 66.0), ([], [180.0], 185.0), (["late.service"], [40.0, 3600.0], 66.0),
    ([], [3600.0], 61.0),
])  # fmt: skip
def test_what_is_planned_for_later_is_started_and_sleepers_are_waited_for(planned: list[str], wakings: list[float],
                                                                          looked_at: float) -> None:
    machine = WatchedMachine(planned, wakings)
    basics.bring_forward(cast(Machine, machine), BootSection(late=60.0, not_started=["spared.*"]))
    assert machine.started == [60.0]
    assert machine.uptime == looked_at


def test_a_machine_without_a_shell_is_looked_at_as_it_is() -> None:
    """Its disk answers at any moment; a question to the running system says itself that there is no shell."""
    machine = WatchedMachine([])
    machine.access_method = "none"
    basics.watch(cast(Machine, machine), 30.0)
    basics.bring_forward(cast(Machine, machine), BootSection())
    assert (machine.uptime, machine.started) == (21.0, [])


class UpgradedMachine(Machine):
    """A machine that reads the journal for its records when it reboots, as slowly as the channel carries it."""

    def __init__(self, *, journal: float) -> None:
        def slowly() -> str:
            time.sleep(journal)
            return "a line"

        boot: Any = SimpleNamespace(bytes_written=0, liveness=Liveness(), wait_until_off=lambda deadline: True)
        self.boots, self.boot_id, self.recording_time = [boot], "1", 0.0
        self._records, self._time_scale = cast(Any, SimpleNamespace(write=lambda name, text: None)), TimeScale()
        deployments = SimpleNamespace(missing_defaults=lambda: [])
        self.guest: Any = SimpleNamespace(
            system=SimpleNamespace(journal=slowly), deployments=deployments,
            files=SimpleNamespace(read=lambda path: path, write=lambda path, text: None))  # fmt: skip

    def run(self, *command: Any, **options: Any) -> Any:
        return None

    def _power_cycle(self) -> None:
        pass


def test_the_time_of_an_upgrade_does_not_grow_with_the_journal() -> None:
    machine = UpgradedMachine(journal=1.0)
    started = time.monotonic()
    tool: Any = SimpleNamespace(running=lambda: "x", apply=lambda offer: None, name_of=lambda offer: "y")
    upgraded = basics.upgrade(machine, tool, cast(Any, None))
    assert time.monotonic() - started >= 1.0 and machine.recording_time >= 1.0
    assert upgraded.seconds < 0.9
    machine.boot.liveness.end(lambda: HostError("over"))
    machine.boot.liveness.close()
