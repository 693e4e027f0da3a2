"""The parser of the command line, which imports no command before it is run."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
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


@pytest.mark.parametrize(("command", "complaint"), [
    ("boot-time --image a --boots 0", "--boots 0: not a whole number from 1 on"),
    ("boot-time --image a --boots=-3", "--boots -3: not a whole number from 1 on"),
    ("boot-time --image a --boots abc", "--boots abc: not a whole number from 1 on"),
    ("boot-time --image a --floor nan", "--floor nan: not a number from 0 to 100 (hint: 1 is one percent)"),
    ("boot-time --image a --floor=-1", "--floor -1: not a number from 0 to 100 (hint: 1 is one percent)"),
    ("boot-time --image a --image b", "--image b: it was given before, as a (hint: one run has one image; run once"),
    ("powercut --image a --at-once 0", "--at-once 0: not a whole number from 1 on"),
    ("powercut --image a --seed x", "--seed x: not a whole number from 0 on"),
    ("powercut --image a --budget 0s", "--budget 0s: not a duration (hint: 90s, 30m or 2h)"),
    ("powercut --image a --shard 2/1", "--shard 2/1: not K/N"),
    ("shell --image a --accel fast", "argument --accel: invalid choice: 'fast'"),
    ("shell --no-such-option", "unrecognized arguments: --no-such-option"),
    ("boot-time", "the following arguments are required: --image (hint: lifsea-testbed boot-time --help)"),
    ("", "the following arguments are required: COMMAND (hint: lifsea-testbed --help)"),
])  # fmt: skip
def test_bad_input_gets_one_line_and_the_status_of_bad_input(
    command: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(command.split()) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ERROR: {complaint}")


def test_an_image_may_be_named_twice_if_it_is_the_same() -> None:
    assert main.parser().parse_args(["shell", "--image", "a", "--image", "a"]).image == "a"


def test_output_that_is_not_read_to_its_end_is_no_error() -> None:
    command = [sys.executable, "-m", "lifsea_testbed", "explain"]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_the_formats_on_offer_are_those_that_can_be_written() -> None:
    assert sorted(history.FORMATS) == sorted(main.FORMATS)
