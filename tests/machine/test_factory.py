"""The machine factory: the profile that a run is held to, as the hint of a failed boot names it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.errors import BootFailed
from lifsea_testbed.machine.factory import MachineFactory
from tests.machine.test_context import context
from tests.support.boot_sector import raw_image


class FakeMachine:
    """A machine on which no shell opens."""

    def __init__(self, hint: str) -> None:
        self.instance = SimpleNamespace(id="i-1")
        self._hint = hint

    def power_on(self) -> None:
        raise BootFailed("no root shell", hint=self._hint)


@pytest.mark.parametrize("reason", ["named by --profile", "chosen by ID=alinux, VERSION_ID=3 on partition 2"])
@pytest.mark.parametrize("hint", ["", "read the transcript"])
def test_a_failed_boot_names_the_profile_and_why_it_was_chosen(tmp_path: Path, reason: str, hint: str) -> None:
    run = replace(context(raw_image(tmp_path / "disk.raw")), profile_reason=reason)
    machine: Any = FakeMachine(hint)
    with contextlib.closing(MachineFactory(run)) as factory, pytest.raises(BootFailed) as caught:
        factory._power_on(machine)
    assert caught.value.hint == "; ".join(filter(None, [hint, f"held to profile reference ({reason})"]))
