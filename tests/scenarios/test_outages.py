"""Power cuts in normal operation: what is done before each cut, and what is awaited after it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifsea_testbed.errors import WaitTimedOut
from lifsea_testbed.guest.cri import Container, ContainerState
from lifsea_testbed.guest.disks import Disks
from lifsea_testbed.guest.readiness import NotReady
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.scenarios import outages
from lifsea_testbed.support.deadline import Deadline
from tests.support import pods
from tests.support.fakes import FakeShell
from tests.support.guests import FakeGuest


class WorkingMachine:
    """A node whose power fails; after the cut with that number its last pod does not come back."""

    def __init__(self, *, pod_stays_down_after: int = -1) -> None:
        self.done: list[str] = []
        self.instance = SimpleNamespace(id="i-test")
        self.boot = SimpleNamespace(liveness=SimpleNamespace(pause=self._pause))
        self._pods: list[str] = []
        self._fails_after, self._cuts = pod_stays_down_after, 0
        traits: dict[str, Any] = {**pods.SOUND, "kubelet.health": "ok", "units.failed": [], "kernel.errors": [],
                                  "disks.damage": [], "writable": None, "usr_digests": None}
        guest: Any = SimpleNamespace(**{name: getattr(FakeGuest({**BASE, **traits}, PROFILE), name)
                                        for name in ("kernel", "units", "services", "disks")})  # fmt: skip
        guest.files = SimpleNamespace(write=self._write, read=lambda path: self._text,
                                      names_in=lambda path: ["10-lifsea.conflist"])
        guest.kubelet = SimpleNamespace(put_static_pod=self._put, health=lambda: "ok", cgroup_driver=lambda: "systemd",
                                        imposters=lambda: [])
        guest.runtime = SimpleNamespace(status=lambda: pods.READY, containers=self._containers,
                                        images=lambda: [PROFILE.cluster.pause])
        self.guest = guest

    def run(self, script: str) -> None:
        self.done.append("load" if "images import" in script and PROFILE.cluster.pause in script else script)

    def _pause(self, seconds: float, deadline: Deadline) -> None:
        assert seconds <= deadline.allowance
        self.done.append(f"{seconds} s")

    def power_cut(self) -> None:
        self.done.append("cut")
        self._cuts += 1

    def wait_until_ready(self) -> None:
        self.done.append("ready")

    def wait_until(self, question: Any, what: str, *, within: float, every: float = 0.2) -> Any:
        for _ in range(3):
            if answer := question():
                return answer
        raise WaitTimedOut(what)

    def _write(self, path: str, text: str) -> None:
        self._text = text
        self.done.append("synced")

    def _put(self, name: str) -> None:
        self._pods.append(name)
        self.done.append("pod")

    def _containers(self, pod: str) -> list[Container]:
        is_down = self._cuts == self._fails_after and pod == self._pods[-1]
        state = ContainerState.EXITED if is_down else ContainerState.RUNNING
        return [Container(id="c", pod=pod, sandbox="s", attempt=0, state=state)] if pod in self._pods else []


PROFILE = profiles.load("reference")
BASE = {"operations_at_start": False, "audit": "append", "identity": True}


def test_the_power_fails_while_the_machine_works_and_right_after_a_sync() -> None:
    machine = WorkingMachine()
    seen = outages.cut_power(cast(Machine, machine), PROFILE)
    cuts = [["load", "pod", f"{moment} s", "synced", "cut", "ready"] for moment in outages.MOMENTS]
    assert machine.done == ["ready", *itertools.chain(*cuts)]
    assert [(cut.text, cut.images) for cut in seen.cuts] == [(cut.written, [PROFILE.cluster.pause])
                                                             for cut in seen.cuts]  # fmt: skip
    assert len({cut.written for cut in seen.cuts}) == len(outages.MOMENTS) >= 3


def test_a_pod_that_does_not_come_back_is_named() -> None:
    machine = WorkingMachine(pod_stays_down_after=2)
    with pytest.raises(NotReady, match="these pods do not run: lifsea-testbed-outage-1"):
        outages.cut_power(cast(Machine, machine), PROFILE)


def test_file_systems_that_found_errors_are_damaged() -> None:
    assert Disks(FakeShell({"errors_count": "vda3: 0\nvda4: 12\n"})).damage() == ["vda4: 12"]
    assert Disks(FakeShell({"errors_count": ""})).damage() == []
