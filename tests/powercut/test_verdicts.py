"""Verdicts on machines that booted after a cut: each kind of damage is found at the depth that checks it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifsea_testbed.errors import CommandFailed
from lifsea_testbed.guest.ostree import Deployment, Deployments
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut import verdicts
from lifsea_testbed.powercut.operation import OPERATIONS, CheckDepth, FirstBootOperation
from lifsea_testbed.powercut.verdicts import CrashVerdict
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, MACHINE_ID
from lifsea_testbed.upgrade.offer import Offer
from lifsea_testbed.upgrade.tools import OstreeTool
from tests.powercut.test_sweep import FACTS

SOUND: dict[str, Any] = {
    "running": "1", "in_etc": KEPT_IN_ETC, "missing": [], "damage": [], "changed": [], "deploys": True, "first": "",
    "failed": [], "unused": 0, "filled": 0.99, "machine_id": f"{'a' * 32}\n", "host_name": "iZtestZ", "runs": ["0"],
}  # fmt: skip


class Guest:
    """A machine that booted, with those traits, and its own shell."""

    def __init__(self, **defect: Any) -> None:
        traits = {**SOUND, **defect}
        self.deployed: list[str] = []
        self.commands: list[str] = []
        self.instance = SimpleNamespace(host_name="iZtestZ")
        self.guest = SimpleNamespace(
            deployments=self, files=self, units=SimpleNamespace(failed=lambda: traits["failed"]),
            disks=SimpleNamespace(root=lambda: SimpleNamespace(unused=traits["unused"], filled=traits["filled"])),
            system=SimpleNamespace(host_name=lambda: traits["host_name"], user_data_runs=lambda: traits["runs"]),
        )  # fmt: skip
        self._traits = traits

    def wait_until_ready(self) -> None:
        """It is."""

    def run(self, command: str, *, within: float = 0.0) -> SimpleNamespace:
        self.commands.append(command)
        if command == "ostree admin status":
            return SimpleNamespace(stdout=f"* lifsea {self._traits['running'] * 64}.0\n")
        if "deploy" in command:
            if not self._traits["deploys"]:
                raise CommandFailed("status 1", evidence="error: No space left on device")
            self.deployed.append(command.split()[-1])
        return SimpleNamespace(stdout="")

    def deploy(self, os: str, commit: str) -> None:
        Deployments(cast(Machine, self)).deploy(os, commit)

    def booted(self) -> Deployment:
        return Deployment(os="lifsea", commit=self._traits["running"], serial=0, booted=True)

    def all(self) -> list[Deployment]:
        commit = self._traits["first"] or (self.deployed or [self._traits["running"]])[-1]
        return [Deployment(os="lifsea", commit=commit, serial=0, booted=False)]

    def read(self, path: str) -> str | None:
        return cast(str, self._traits["machine_id" if path == MACHINE_ID else "in_etc"])

    def missing_defaults(self) -> list[str]:
        return list(self._traits["missing"])

    def repository_damage(self) -> list[str]:
        return list(self._traits["damage"])

    def changed_files(self) -> list[str]:
        return list(self._traits["changed"])


class Tool(OstreeTool):
    """ostree, which names images as the fake machine does."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(cast(Machine, guest))
        self._guest = guest

    def running(self) -> str:
        return self._guest.booted().commit

    def boots_next(self) -> str:
        return self._guest.all()[0].commit


class Switch:
    """A tool of another kind: it has no repository, and names images by their versions."""

    def __init__(self, *, works: bool = True) -> None:
        self.calls: list[str] = []
        self._works, self._next = works, "1"

    def running(self) -> str:
        return "1"

    def boots_next(self) -> str:
        return self._next

    def name_of(self, offer: Offer) -> str:
        return offer.version

    def apply(self, offer: Offer) -> str:
        self.calls.append("apply")
        return ""

    def roll_back(self) -> None:
        self.calls.append("roll back")
        self._next = "0" if self._works else "1"


@pytest.mark.parametrize(("works", "outcome"), [(True, CrashVerdict.NEW), (False, CrashVerdict.BROKEN)])
def test_a_machine_is_judged_by_the_profiles_own_tool(works: bool, outcome: CrashVerdict) -> None:
    """One that has no ostree: neither is its repository read, nor its /usr compared."""
    guest, tool = Guest(running="2", damage=["no ostree"], changed=["no ostree"]), Switch(works=works)
    assert verdicts.judge(cast(Machine, guest), FACTS, CheckDepth.NEXT, tool)[0] is outcome
    assert (tool.calls, guest.commands, guest.deployed) == (["roll back"], [], [])


def judge(depth: CheckDepth, operation: str = "upgrade", **defect: Any) -> tuple[CrashVerdict, str]:
    facts = replace(FACTS, subject=operation)
    facts = replace(facts, old=facts.new) if operation == FirstBootOperation.name else facts
    guest = Guest(**defect)
    return verdicts.judge(cast(Machine, guest), facts, depth, Tool(guest))


@pytest.mark.parametrize("depth", CheckDepth)
@pytest.mark.parametrize(("running", "outcome"), [("0", CrashVerdict.OLD), ("1", CrashVerdict.NEW)])
def test_a_whole_image_is_the_old_or_the_new_one(depth: CheckDepth, running: str, outcome: CrashVerdict) -> None:
    assert judge(depth, running=running) == (outcome, "")


@pytest.mark.parametrize(("depth", "defect", "why"), [
    (CheckDepth.BOOT, {"running": "2"}, "neither"), (CheckDepth.BOOT, {"in_etc": None}, "not as it was"),
    (CheckDepth.BOOT, {"missing": ["./new"]}, "lacks new defaults: ./new"),
    (CheckDepth.FSCK, {"damage": ["corrupt object"]}, "fsck: corrupt object"),
    (CheckDepth.FSCK, {"changed": ["M /usr/bin/sh"]}, "M /usr/bin/sh"),
    (CheckDepth.NEXT, {"deploys": False}, "No space left"), (CheckDepth.NEXT, {"first": "1"}, "1 boots next"),
])  # fmt: skip
def test_damage_is_found_at_its_depth_and_below(depth: CheckDepth, defect: dict[str, Any], why: str) -> None:
    depths = list(CheckDepth)
    for tried in depths[depths.index(depth):]:
        outcome, reasons = judge(tried, **defect)
        assert (outcome, why in reasons) == (CrashVerdict.BROKEN, True)
    for tried in depths[:depths.index(depth)]:
        assert judge(tried, **defect)[0] is CrashVerdict.NEW


@pytest.mark.parametrize("defect", [
    {"failed": ["lifsea-init.service"]}, {"unused": 1 << 30}, {"filled": 0.3}, {"machine_id": "uninitialized\n"},
    {"machine_id": None}, {"host_name": "localhost"}, {"runs": []},
])  # fmt: skip
def test_a_first_boot_that_was_not_finished_is_found(defect: dict[str, Any]) -> None:
    assert judge(CheckDepth.BOOT, FirstBootOperation.name)[0] is CrashVerdict.NEW
    assert judge(CheckDepth.BOOT, FirstBootOperation.name, **defect)[0] is CrashVerdict.BROKEN


def test_the_next_upgrade_is_to_the_other_image() -> None:
    for running, other in (("0", "1"), ("1", "0")):
        guest = Guest(running=running)
        assert verdicts.judge(cast(Machine, guest), FACTS, CheckDepth.NEXT, Tool(guest))[0] is not CrashVerdict.BROKEN
        assert guest.deployed == [other]


def test_the_offer_is_pulled_again() -> None:
    """When the next upgrade is to the offered image, it is pulled first: a damaged pull must not stay unnoticed."""
    facts = replace(FACTS, offer=Offer(url="http://mirror/", branch="next", commit="1", version=""))
    for running, pulls in (("0", 1), ("1", 0)):
        guest = Guest(running=running)
        assert verdicts.judge(cast(Machine, guest), facts, CheckDepth.NEXT, Tool(guest))[0] is not CrashVerdict.BROKEN
        assert [command.count("ostree pull") for command in guest.commands].count(1) == pulls


def test_every_operation_has_its_name() -> None:
    assert set(OPERATIONS) == {"pull", "upgrade", "rollback", "staged", "first-boot"}
