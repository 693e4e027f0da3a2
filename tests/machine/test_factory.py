"""The machine factory: the profile that a run is held to, as the hint of a failed boot names it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.errors import BootFailed
from lifsea_testbed.machine import factory as factories
from lifsea_testbed.machine.context import AUTO
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.profiles import profile as profiles
from tests.machine.test_context import context
from tests.support.boot_sector import raw_image

#: Marks an os-release that was read from a machine that came up, not from the disk of the image.
UP = "was up"


class FakeMachine:
    """A machine on which no shell opens; `release` is the os-release that its guest returns."""

    def __init__(self, hint: str = "", release: dict[str, str] | None = None) -> None:
        self.instance = SimpleNamespace(id="i-1")
        self.guest = SimpleNamespace(system=SimpleNamespace(os_release=lambda: release))
        self._hint = hint

    def power_on(self) -> None:
        raise BootFailed("no root shell", hint=self._hint)


@pytest.mark.parametrize(("option", "release", "expected"), [
    ("reference", {}, "held to profile reference (named by --profile)"),
    (AUTO, {}, "held to profile lifsea-3.3 (the image's os-release could not be read or fits none); "
     "--profile names another"),
    (AUTO, {"ID": "alinux", "VERSION_ID": "3"}, "held to profile alinux-3 (chosen by the image's os-release)"),
    (AUTO, {UP: "", "ID": "alinux", "VERSION_ID": "3"}, "held to profile alinux-3 (chosen by the image's os-release)"),
])  # fmt: skip
@pytest.mark.parametrize("hint", ["", "read the transcript"])
def test_a_failed_boot_names_the_profile_and_why_it_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, release: dict[str, str], expected: str, hint: str
) -> None:
    monkeypatch.setattr(factories, "recognised", lambda image: None if UP in release else profiles.matching(release))
    run = context(raw_image(tmp_path / "disk.raw"))
    machine: Any = FakeMachine(hint, release)
    with contextlib.closing(MachineFactory(replace(run, profile=option))) as factory:
        if UP in release:
            factory.identify(machine)
        with pytest.raises(BootFailed) as caught:
            factory._power_on(machine)
    assert caught.value.hint == "; ".join(filter(None, [hint, expected]))
