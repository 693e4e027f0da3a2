"""The command line: `python -m lifsea_testbed`, for what is not a run of pytest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lifsea_testbed.ecs import catalogue
from lifsea_testbed.errors import CallerError, Explained
from lifsea_testbed.text import printable

#: Exit statuses: as pytest has it for bad input, and as the gate has it for what is broken.
_USAGE, _BROKEN = 4, 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; what goes wrong is said in one line."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except Explained as error:
        print(f"ERROR: {printable(error.one_line)}", file=sys.stderr)
        return _USAGE if isinstance(error, CallerError) else _BROKEN
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lifsea_testbed", description="What is not a run of pytest.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_shell(commands.add_parser("shell", help="boot an image and sit down at its console"))
    return parser


def _add_shell(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", required=True, metavar="FILE", help="a qcow2 or raw image; it is never written")
    parser.add_argument("--profile", default="auto", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--instance-type", default=catalogue.DEFAULT, metavar="TYPE", help="(default: %(default)s)")
    parser.add_argument("--accel", default="auto", choices=("auto", "kvm", "tcg"), help="(default: %(default)s)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), metavar="DIR",
                        help="where the transcript goes (default: %(default)s)")
    parser.set_defaults(command=_shell)


def _shell(options: argparse.Namespace) -> None:
    from lifsea_testbed.interactive import sit_down
    from lifsea_testbed.preflight import Wish, prepare

    wish = Wish(image=options.image, next_image=None, profile=options.profile, instance_type=options.instance_type,
                accelerator=options.accel, reports=options.reports.resolve())  # fmt: skip
    bench = prepare(wish).bench()
    try:
        sit_down(bench)
    finally:
        bench.close()
