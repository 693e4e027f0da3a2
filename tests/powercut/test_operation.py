"""Operations are those of the profile's own upgrade tool, and what it does not do in steps is not cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut.operation import OPERATIONS, PreparedDisk
from lifsea_testbed.profiles.profile import UpgradesSection
from lifsea_testbed.upgrade.offer import Offer
from lifsea_testbed.upgrade.tools import CommandTool, OstreeTool, RpmOstreeTool, UpgradeTool
from tests.support.fakes import FakeShell

OFFER = Offer(url="http://mirror/", branch="next", commit="b" * 64, version="2")
STATUS = f"* lifsea {'a' * 64}.0\n"
COMMANDS = UpgradesSection(tool="commands", deploy="ab-update", roll_back="ab-back")
TOOLS = {"ostree": UpgradesSection(tool="ostree"), "rpm-ostree": UpgradesSection(tool="rpm-ostree"),
         "commands": COMMANDS}  # fmt: skip


class FakeMachine(FakeShell):
    """A machine on which every command succeeds, and which says when it is switched."""

    def __init__(self) -> None:
        super().__init__({"ostree admin status": STATUS, "": ""})
        self.guest = SimpleNamespace(deployments=SimpleNamespace())

    def power_on(self) -> None:
        self.scripts.append("power on")

    def power_off(self) -> None:
        self.scripts.append("power off")

    def wait_until_ready(self) -> None:
        """It is."""

    def reboot(self) -> None:
        self.scripts.append("reboot")


def ran(operation: str, tool: str) -> list[str]:
    """The scripts that the operation runs by that tool."""
    machine, length = FakeMachine(), iter((10, 90))
    prepared = PreparedDisk(instance=cast(Any, None), layers=(Path("x"),), old="a" * 64, new="b" * 64, offer=OFFER,
                            upgrades=TOOLS[tool])  # fmt: skip
    done = OPERATIONS[operation].run(cast(Machine, machine), prepared, lambda: next(length))
    assert (done.old, done.new, done.started, done.announced) == ("a" * 64, "b" * 64, 10, 90)
    return [script.strip() for script in machine.scripts]


@pytest.mark.parametrize(("operation", "tool", "command"), [
    ("upgrade", "ostree", f"ostree admin deploy --os=lifsea {'b' * 64}"), ("upgrade", "commands", "ab-update"),
    ("upgrade", "rpm-ostree", f"rpm-ostree rebase lifsea-testbed:next {'b' * 64}"),
    ("rollback", "ostree", "ostree admin set-default 1"), ("rollback", "rpm-ostree", "rpm-ostree rollback"),
    ("rollback", "commands", "ab-back"),
])  # fmt: skip
def test_an_operation_is_that_of_the_tool(operation: str, tool: str, command: str) -> None:
    scripts = ran(operation, tool)
    assert any(command in script for script in scripts)
    assert tool == "ostree" or not [script for script in scripts if script.startswith("ostree")]


def test_what_rpm_ostree_stages_is_final_when_the_machine_is_off() -> None:
    assert ran("upgrade", "rpm-ostree")[-1] == "power off"
    assert "power off" not in ran("upgrade", "ostree") + ran("upgrade", "commands")


@pytest.mark.parametrize("operation", ["pull", "staged"])
@pytest.mark.parametrize("make", [RpmOstreeTool, lambda shell: CommandTool(shell, COMMANDS)])
def test_a_step_that_a_tool_does_not_have_is_not_judged(operation: str,
                                                        make: Callable[[FakeShell], UpgradeTool]) -> None:
    machine = FakeMachine()
    with pytest.raises(NotJudged, match=f"--cut {operation} is a step of ostree's own") as caught:
        cast(Any, OPERATIONS[operation])._advance(machine, make(machine), OFFER)
    assert caught.value.reason is Reason.PROFILE and machine.scripts == []
    cast(Any, OPERATIONS[operation])._advance(machine, OstreeTool(machine), OFFER)
