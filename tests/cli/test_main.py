"""The parser of the command line, which imports no command before it is run."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

import pytest

from lifsea_testbed.cli import history, main


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The function of each command, as `module:function`."""
    if command := parser.get_default("command"):
        yield command
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for other in action.choices.values():
                yield from commands(other)


@pytest.mark.parametrize("command", sorted(set(commands(main.parser()))))
def test_each_command_leads_to_a_function(command: str) -> None:
    module, _, function = command.partition(":")
    assert callable(getattr(importlib.import_module(f"lifsea_testbed.cli.{module}"), function))


def test_the_formats_on_offer_are_those_that_can_be_written() -> None:
    assert sorted(history.FORMATS) == sorted(main.FORMATS)
