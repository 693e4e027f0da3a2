"""The command line `lifsea-testbed`: every command beside a run of pytest."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lifsea_testbed.ecs import instance_types
from lifsea_testbed.errors import CallerError, Explained, GuestFailure
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.support.option_values import Once, count, percent
from lifsea_testbed.support.sanitize import log_lines

#: Exit statuses: the gate's for `failed` and `broken`, pytest's for bad input, a shell's for Ctrl-C and SIGPIPE.
_FAILED, _USAGE, _BROKEN, _INTERRUPTED, _PIPE_CLOSED = 1, 4, 6, 130, 141
#: The extra of this package that installs each optional library.
_EXTRAS = {"alembic": "perf", "otava": "perf", "numpy": "perf", "scipy": "perf", "sqlalchemy": "perf",
           "cryptography": "cluster", "kubernetes": "cluster", "minisign": "sign", "psycopg": "postgres"}  # fmt: skip
#: The formats of `history export`.
FORMATS = ("github-action-benchmark-bigger", "github-action-benchmark-smaller", "grafana", "jsonl", "openmetrics")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; prints bad input as one line, other errors with their evidence."""
    try:
        options = parser().parse_args(arguments)
        status = _command(options.command)(options) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except Explained as error:
        print(log_lines(f"ERROR: {_text(error)}"), file=sys.stderr)
        if isinstance(error, GuestFailure):
            return _FAILED
        return _USAGE if isinstance(error, CallerError) else _BROKEN
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except ImportError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        hint = f" (hint: pip install 'lifsea-testbed[{extra}]')" if extra else ""
        print(f"ERROR: {error}{hint}", file=sys.stderr)
        return _USAGE
    return status


def _command(name: str) -> Callable[[argparse.Namespace], int | None]:
    """Returns the function that runs a command; only that command's module is imported."""
    module, _, function = name.partition(":")
    command: Callable[[argparse.Namespace], int | None] = getattr(
        importlib.import_module(f"lifsea_testbed.cli.{module}"), function)  # fmt: skip
    return command


def _text(error: Explained) -> str:
    known = {"expected: ": error.expected, "evidence:\n": error.evidence.rstrip(), "records: ": error.records}
    more = [f"{what}{text}" for what, text in known.items() if text and not isinstance(error, CallerError)]
    return "\n".join([error.one_line, *more])


class _Parser(argparse.ArgumentParser):
    """A parser that refuses bad input as everything else here does: in one line, with the status of bad input.

    Raises:
        CallerError: an option is unknown, is missing, or has no such value.
    """

    def error(self, message: str) -> NoReturn:
        """Raises CallerError."""
        raise CallerError(message, hint=f"{self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    parser: argparse.ArgumentParser = _Parser(
        prog="lifsea-testbed", description="Tools beside the pytest plugin: the host, claims, consoles, boot times, "
        "power cuts, verdicts, histories.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=importlib.metadata.version("lifsea-testbed"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_doctor(commands.add_parser("doctor", help="check this host for everything that a run needs, and list the "
                                    "leftovers of killed runs"))  # fmt: skip
    _add_explain(commands.add_parser("explain", help="show a claim: its promise, its test, and what breaks it"))
    instance = commands.add_parser("instance", help="compare a real instance with what the test bed takes it for")
    _add_instance(instance.add_subparsers(required=True, metavar="COMMAND"))
    _add_shell(commands.add_parser("shell", help="boot an image and connect its console to this terminal"))
    _add_boot_time(commands.add_parser("boot-time", help="boot an image many times; show the times and their causes"))
    _add_baseline(commands.add_parser("baseline", help="write a profile with what a released image has, to hold later "
                                      "images to"))  # fmt: skip
    _add_powercut(commands.add_parser("powercut", help="cut the power at every write of an upgrade"))
    _add_dashboard(commands.add_parser("dashboard", help="write a history as a static site"))
    gate = commands.add_parser("gate", help="merge gate.json files, verify a signed one, print the schema")
    _add_gate(gate.add_subparsers(required=True, metavar="COMMAND"))
    history = commands.add_parser("history", help="import, export and merge histories of figures")
    _add_history(history.add_subparsers(required=True, metavar="COMMAND"))
    completion = commands.add_parser("completion", help="print the completion script for a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell that runs the script")
    completion.set_defaults(command="completion:run")
    return parser


def _count(option: str, *, least: int = 0) -> Callable[[str], int]:
    return lambda text: count(text, option, least=least)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("claim", nargs="?", metavar="CLAIM", help="the claim's id; without one, all claims are listed")
    parser.set_defaults(command="explain:run")


def _add_instance(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    script = commands.add_parser("script", help="print the script that is to be run on the instance")
    script.set_defaults(command="instance:print_script")
    comparing = commands.add_parser("compare", help="show how the instance differs; the exit status is 6 if it does")
    comparing.add_argument("record", nargs="?", type=Path, metavar="FILE",
                           help="what the script printed (default: standard input)")
    comparing.add_argument("--instance-type", default=instance_types.DEFAULT, metavar="TYPE",
                           help="the type that the instance was sold as (default: %(default)s)")
    comparing.set_defaults(command="instance:compare")


def _add_machine(parser: argparse.ArgumentParser, *, image_needed: bool = True) -> None:
    parser.add_argument("--image", required=image_needed, metavar="FILE", action=Once,
                        help="a disk image (qcow2, raw, VHD, VHDX, VMDK); it is never written")
    parser.add_argument("--profile", default="auto", metavar="NAME",
                        help="the profile: a name, a .toml file, or auto, by os-release (default: %(default)s)")
    parser.add_argument("--instance-type", default=instance_types.DEFAULT, metavar="TYPE",
                        help="the instance type that the machine looks like (default: %(default)s)")
    parser.add_argument("--firmware", default="auto", choices=("auto", *Firmware),
                        help="auto boots as the profile says, or as the disk is made for (default: %(default)s)")
    parser.add_argument("--accel", default="auto", choices=("auto", "kvm", "tcg"),
                        help="auto takes KVM if it is really faster (default: %(default)s)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), metavar="DIR",
                        help="the directory for transcripts and results (default: %(default)s)")


def _add_shell(parser: argparse.ArgumentParser) -> None:
    _add_machine(parser, image_needed=False)
    parser.add_argument("--kept", type=Path, metavar="DIR",
                        help="instead of an image: a machine saved by --keep on-failure, in its state then")
    parser.set_defaults(command="machines:shell", next_image=None)


def _add_boot_time(parser: argparse.ArgumentParser) -> None:
    _add_machine(parser)
    parser.add_argument("--against", metavar="OTHER",
                        help="boot this image in turns with the first, and show what got slower")
    parser.add_argument("--boots", type=_count("--boots", least=1), default=10, metavar="N",
                        help="boots of each image (default: %(default)s)")
    parser.add_argument("--later", action="store_true",
                        help="boot each disk a second time, and judge second boots separately")
    parser.add_argument("--until", default="finished", choices=("finished", "quiet", "kubelet"),
                        help="the mark at which a boot ends (default: %(default)s)")
    parser.add_argument("--initcalls", action="store_true", help="with --against: also run both kernels without a disk")
    parser.add_argument("--floor", type=lambda text: percent(text, "--floor"), default=1.0, metavar="PERCENT",
                        help="the smallest change that counts as one (default: %(default)s)")
    parser.set_defaults(command="machines:boot_time", next_image=None)


def _add_baseline(parser: argparse.ArgumentParser) -> None:
    _add_machine(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE",
                        help="the profile to write, a new .toml file")
    parser.set_defaults(command="machines:baseline", next_image=None)


def _add_powercut(parser: argparse.ArgumentParser) -> None:
    _add_machine(parser)
    parser.add_argument("--next-image", metavar="FILE", action=Once,
                        help="the image to upgrade to; not needed with an existing recording")
    parser.add_argument("--recording", type=Path, metavar="DIR",
                        help="the directory of the recording, made if it has none (default: powercut/ in the reports)")
    parser.add_argument("--budget", metavar="TIME", help="start no further boot after this time, such as 90s, 30m, 2h")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="sweep the K-th of N parts")
    parser.add_argument("--at-once", type=_count("--at-once", least=1), metavar="N",
                        help="boot N states at a time (default: as many as the host has room for)")
    parser.add_argument("--only", action="append", metavar="KIND",
                        help="boot this kind of state only: flush, prefix, without, subset, torn-pages, torn-sectors; "
                        "repeatable")
    parser.add_argument("--seed", type=_count("--seed"), default=1, metavar="N",
                        help="the seed of random subsets (default: %(default)s)")
    parser.add_argument("--depth", default="boot", choices=("boot", "fsck", "next"),
                        help="boot: boot each state; fsck: also check the repository and /usr; next: also upgrade "
                        "again (default: %(default)s)")
    parser.add_argument("--cut", default="upgrade", choices=("pull", "upgrade", "rollback", "staged", "first-boot"),
                        help="the operation during which the power is cut (default: %(default)s)")
    parser.add_argument("--second", metavar="NAME",
                        help="cut the power in the boot that follows this state, instead of the operation")
    parser.add_argument("--state", metavar="NAME", help="boot this state only, such as 'epoch 17, without write 3'")
    parser.add_argument("--shell", action="store_true", help="with --state: connect its console to this terminal")
    parser.add_argument("--shrink", action="store_true", help="with --state: find the fewest lost writes that break it")
    parser.set_defaults(command="machines:powercut")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clean", action="store_true", help="remove the leftovers of killed runs")
    parser.set_defaults(command="doctor:run")


def _add_dashboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--history", required=True, metavar="FILE|URL", help="an SQLite file or a PostgreSQL URL")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/dashboard"), metavar="DIR",
                        help="the directory for the site (default: %(default)s)")
    parser.set_defaults(command="history:dashboard")


def _add_history(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    importing = commands.add_parser("import",
                                    help="add samples from JSON lines; those already in the history are skipped")
    sweeping = commands.add_parser("import-sweep",
                                   help="add the figures of a sweep of power cuts, or of a shard of one")
    exporting = commands.add_parser("export",
                                    help="write every sample as JSON lines, or the newest for another program")
    merging = commands.add_parser("merge", help="add every sample of another history")
    for parser in (importing, sweeping, exporting, merging):
        parser.add_argument("--history", required=True, metavar="FILE|URL", help="an SQLite file or a PostgreSQL URL")
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE", help="such as reports/metrics.jsonl")
    sweeping.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a powercut.json")
    exporting.add_argument("--format", default="jsonl", choices=FORMATS,
                           help="the output format (default: %(default)s)")
    exporting.add_argument("-o", "--output", type=Path, metavar="FILE",
                           help="the output file (default: standard output)")
    merging.add_argument("other", metavar="OTHER", help="the history to read from; it is not changed")
    importing.set_defaults(command="history:add_samples")
    sweeping.set_defaults(command="history:add_sweep")
    exporting.set_defaults(command="history:export")
    merging.set_defaults(command="history:merge")


def _add_gate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    merging = commands.add_parser("merge", help="make one verdict of the gate.json of each shard")
    merging.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the gate.json of a shard")
    merging.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                         help="the directory for the reports")
    merging.add_argument("--sign-with", type=Path, metavar="KEY",
                         help="sign the verdict with this secret key file of minisign")
    merging.set_defaults(command="gate:join")
    verifying = commands.add_parser("verify", help="check a signature; the exit status is the verdict's")
    verifying.add_argument("file", type=Path, metavar="FILE", help="a gate.json, with its signature file beside it")
    verifying.add_argument("-p", "--public-key", type=Path, required=True, metavar="KEY",
                           help="the public key file of minisign")
    verifying.add_argument("--image", type=Path, metavar="FILE", help="check that the verdict is on this image")
    verifying.set_defaults(command="gate:verify")
    commands.add_parser("schema", help="print the JSON Schema of gate.json").set_defaults(command="gate:print_schema")
