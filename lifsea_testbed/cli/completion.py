"""Completion of the command line in a shell: claims, profiles and instance types by name, files and directories."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

from lifsea_testbed.ecs import instance_types
from lifsea_testbed.profiles import claims
from lifsea_testbed.profiles import profile as profiles

_FILES = ("FILE", "FILE|URL", "OTHER")


def run(options: argparse.Namespace) -> None:
    """Prints the completion script of a shell."""
    from lifsea_testbed.cli.main import parser

    print(script(parser(), options.shell))


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Returns the script that makes a shell complete the parser's command, with the names known to this version."""
    words = {"claim": list(claims.catalogue()), "profile": profiles.names(),
             "instance_type": list(instance_types.CATALOGUE)}  # fmt: skip
    for action in _actions(parser):
        action.choices = action.choices or words.get(action.dest)
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
