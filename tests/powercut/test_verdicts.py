"""What comes up after a cut is judged: each thing that can be wrong is found, at the depth that looks for it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifsea_testbed.errors import CommandFailed
from lifsea_testbed.guest.ostree import Deployment, Deployments
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut import verdicts
from lifsea_testbed.powercut.operation import SUBJECTS, Depth, FirstBoot
from lifsea_testbed.powercut.results import Outcome
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, MACHINE_ID
from lifsea_testbed.upgrade.offer import Offer
from tests.powercut.test_sweep import FACTS

SOUND: dict[str, Any] = {
    "running": "1", "in_etc": KEPT_IN_ETC, "missing": [], "damage": [], "changed": [], "deploys": True, "first": "",
    "failed": [], "unused": 0, "filled": 0.99, "machine_id": f"{'a' * 32}\n", "host_name": "iZtestZ", "runs": ["0"],
}  # fmt: skip


class Guest:
    """A machine that came up, with those traits, and its own shell."""

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


def look(depth: Depth, subject: str = "upgrade", **defect: Any) -> tuple[Outcome, str]:
    facts = replace(FACTS, subject=subject)
    facts = replace(facts, old=facts.new) if subject == FirstBoot.name else facts
    return verdicts.look(cast(Machine, Guest(**defect)), facts, depth)


@pytest.mark.parametrize("depth", Depth)
@pytest.mark.parametrize(("running", "outcome"), [("0", Outcome.OLD), ("1", Outcome.NEW)])
def test_a_whole_image_is_the_old_or_the_new_one(depth: Depth, running: str, outcome: Outcome) -> None:
    assert look(depth, running=running) == (outcome, "")


@pytest.mark.parametrize(("depth", "defect", "why"), [
    (Depth.BOOT, {"running": "2"}, "neither"), (Depth.BOOT, {"in_etc": None}, "not as it was"),
    (Depth.BOOT, {"missing": ["./new"]}, "lacks new defaults: ./new"),
    (Depth.FSCK, {"damage": ["corrupt object"]}, "fsck: corrupt object"),
    (Depth.FSCK, {"changed": ["M /usr/bin/sh"]}, "M /usr/bin/sh"),
    (Depth.NEXT, {"deploys": False}, "No space left"), (Depth.NEXT, {"first": "1"}, "1 boots next"),
])  # fmt: skip
def test_what_is_wrong_is_found_at_its_depth_and_below(depth: Depth, defect: dict[str, Any], why: str) -> None:
    depths = list(Depth)
    for tried in depths[depths.index(depth):]:
        outcome, said = look(tried, **defect)
        assert (outcome, why in said) == (Outcome.BROKEN, True)
    for tried in depths[:depths.index(depth)]:
        assert look(tried, **defect)[0] is Outcome.NEW


@pytest.mark.parametrize("defect", [
    {"failed": ["lifsea-init.service"]}, {"unused": 1 << 30}, {"filled": 0.3}, {"machine_id": "uninitialized\n"},
    {"machine_id": None}, {"host_name": "localhost"}, {"runs": []},
])  # fmt: skip
def test_a_first_boot_that_was_not_finished_is_found(defect: dict[str, Any]) -> None:
    assert look(Depth.BOOT, FirstBoot.name)[0] is Outcome.NEW
    assert look(Depth.BOOT, FirstBoot.name, **defect)[0] is Outcome.BROKEN


def test_the_next_upgrade_is_to_the_other_image() -> None:
    for running, other in (("0", "1"), ("1", "0")):
        guest = Guest(running=running)
        assert verdicts.look(cast(Machine, guest), FACTS, Depth.NEXT)[0] is not Outcome.BROKEN
        assert guest.deployed == [other]


def test_what_was_on_offer_is_pulled_again() -> None:
    """Of the two images, the one that was on offer when the power was cut: what came whole of it must not be lost."""
    facts = replace(FACTS, offer=Offer(url="http://mirror/", branch="next", commit="1", version=""))
    for running, pulls in (("0", 1), ("1", 0)):
        guest = Guest(running=running)
        assert verdicts.look(cast(Machine, guest), facts, Depth.NEXT)[0] is not Outcome.BROKEN
        assert [command.count("ostree pull") for command in guest.commands].count(1) == pulls


def test_every_subject_is_known_by_its_name() -> None:
    assert set(SUBJECTS) == {"pull", "upgrade", "rollback", "staged", "first-boot"}
