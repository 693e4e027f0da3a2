"""Machine and Transcript are what the protocols of a machine describe: mypy checks the assignments."""

from __future__ import annotations

import inspect
from typing import cast

import pytest

from lifsea_testbed.console.transcript import Transcript
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.support.protocols import Console, Power, Shell

SHELL: Shell = cast(Machine, None)
POWER: Power = cast(Machine, None)
CONSOLE: Console = cast(Transcript, None)


@pytest.mark.parametrize(("protocol", "kind"), [(Shell, Machine), (Power, Machine), (Console, Transcript)])
def test_each_method_of_a_protocol_is_there_with_its_parameters(protocol: type, kind: type) -> None:
    methods = [name for name in vars(protocol) if not name.startswith("_")]
    assert methods
    for name in methods:
        ours, theirs = getattr(kind, name), getattr(protocol, name)
        if not isinstance(theirs, property):
            assert [*inspect.signature(inspect.unwrap(ours)).parameters] == [*inspect.signature(theirs).parameters]
