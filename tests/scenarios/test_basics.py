"""The basic scenarios, on a machine whose files and identity are a dictionary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.scenarios import basics
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, KEPT_IN_HOME, KEPT_IN_VAR


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


def test_a_machine_is_watched_until_it_has_been_up_for_long_enough() -> None:
    machine = cast(Machine, FakeMachine())
    assert basics.watch(machine, 60.0) is machine
