"""The command line: `lifsea-testbed`, for what is not a run of pytest."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lifsea_testbed.ecs import instance_types
from lifsea_testbed.errors import CallerError, Explained, GuestFailure
from lifsea_testbed.support.sanitize import printable

#: Exit statuses: the gate's for what failed and for what is broken, pytest's for bad input, a shell's for Ctrl-C.
_FAILED, _USAGE, _BROKEN, _INTERRUPTED = 1, 4, 6, 130
#: The extra of this package that brings an optional library.
_EXTRAS = {"alembic": "perf", "otava": "perf", "numpy": "perf", "scipy": "perf", "sqlalchemy": "perf",
           "cryptography": "cluster", "kubernetes": "cluster", "minisign": "sign", "psycopg": "postgres"}  # fmt: skip
#: The formats of `history export`.
FORMATS = ("github-action-benchmark-bigger", "github-action-benchmark-smaller", "grafana", "jsonl", "openmetrics")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; bad input is one line, every other error has its evidence."""
    options = parser().parse_args(arguments)
    try:
        return _command(options.command)(options) or 0
    except Explained as error:
        print(f"ERROR: {printable(_text(error))}", file=sys.stderr)
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


def _command(name: str) -> Callable[[argparse.Namespace], int | None]:
    """The function that runs a command; its module is imported for that command only."""
    module, _, function = name.partition(":")
    command: Callable[[argparse.Namespace], int | None] = getattr(
        importlib.import_module(f"lifsea_testbed.cli.{module}"), function)  # fmt: skip
    return command


def _text(error: Explained) -> str:
    known = {"expected: ": error.expected, "evidence:\n": error.evidence.rstrip(), "records: ": error.records}
    more = [f"{what}{text}" for what, text in known.items() if text and not isinstance(error, CallerError)]
    return "\n".join([error.one_line, *more])


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="lifsea-testbed",
                                     description="Tools beside the pytest plugin: the host, claims, consoles, boot "
                                     "times, power cuts, verdicts, histories.")
    parser.add_argument("--version", action="version", version=importlib.metadata.version("lifsea-testbed"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_doctor(commands.add_parser("doctor", help="show what this host has and lacks for a run, and what killed runs "
                                    "left on it"))  # fmt: skip
    _add_explain(commands.add_parser("explain", help="show a claim: its promise, how it is judged, what breaks it"))
    _add_shell(commands.add_parser("shell", help="boot an image with its console on this terminal"))
    _add_boot_time(commands.add_parser("boot-time", help="boot an image many times; show how long that takes, and why"))
    _add_powercut(commands.add_parser("powercut", help="cut the power at every write of an upgrade"))
    _add_dashboard(commands.add_parser("dashboard", help="write a history as a static site"))
    gate = commands.add_parser("gate", help="merge, verify: what is done with a gate.json")
    _add_gate(gate.add_subparsers(required=True, metavar="COMMAND"))
    history = commands.add_parser("history", help="carry a history from place to place")
    _add_history(history.add_subparsers(required=True, metavar="COMMAND"))
    completion = commands.add_parser("completion", help="write what completes this command in a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which one")
    completion.set_defaults(command="completion:run")
    return parser


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("claim", nargs="?", metavar="CLAIM", help="its id; without one, all of them are listed")
    parser.set_defaults(command="explain:run")


def _add_machine(parser: argparse.ArgumentParser, *, image_needed: bool = True) -> None:
    parser.add_argument("--image", required=image_needed, metavar="FILE",
                        help="a qcow2 or raw image; it is never written")
    parser.add_argument("--profile", default="auto", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--instance-type", default=instance_types.DEFAULT, metavar="TYPE",
                        help="(default: %(default)s)")
    parser.add_argument("--accel", default="auto", choices=("auto", "kvm", "tcg"), help="(default: %(default)s)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), metavar="DIR",
                        help="where the transcript and the findings go (default: %(default)s)")


def _add_shell(parser: argparse.ArgumentParser) -> None:
    _add_machine(parser, image_needed=False)
    parser.add_argument("--kept", type=Path, metavar="DIR",
                        help="instead of an image: a machine that --keep on-failure saved, as it stood")
    parser.set_defaults(command="machines:shell", next_image=None)


def _add_boot_time(parser: argparse.ArgumentParser) -> None:
    _add_machine(parser)
    parser.add_argument("--against", metavar="OTHER", help="boot this image in turns with it, and say what got slower")
    parser.add_argument("--boots", type=int, default=10, metavar="N", help="of each image (default: %(default)s)")
    parser.add_argument("--later", action="store_true", help="boot each disk a second time, and judge those apart")
    parser.add_argument("--until", default="finished", choices=("finished", "quiet", "kubelet"),
                        help="the last mark that is waited for (default: %(default)s)")
    parser.add_argument("--initcalls", action="store_true", help="with --against: run both kernels alone as well")
    parser.add_argument("--floor", type=float, default=1.0, metavar="PERCENT",
                        help="the smallest change that counts (default: %(default)s)")
    parser.set_defaults(command="machines:boot_time", next_image=None)


def _add_powercut(parser: argparse.ArgumentParser) -> None:
    _add_machine(parser)
    parser.add_argument("--next-image", metavar="FILE", help="what is upgraded to; not needed once it was recorded")
    parser.add_argument("--recording", type=Path, metavar="DIR",
                        help="the recording, made there if there is none (default: powercut/ among the reports)")
    parser.add_argument("--budget", metavar="TIME", help="boot no further state after so long: 90s, 30m, 2h")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="sweep the K-th of N parts")
    parser.add_argument("--at-once", type=int, metavar="N", help="boot N states at once (default: what the host bears)")
    parser.add_argument("--only", action="append", metavar="KIND",
                        help="flush, prefix, without, subset, torn-pages, torn-sectors; may be given several times")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of random subsets (default: %(default)s)")
    parser.add_argument("--depth", default="boot", choices=("boot", "fsck", "next"),
                        help="fsck: check repository and /usr as well; next: and upgrade again (default: %(default)s)")
    parser.add_argument("--cut", default="upgrade", choices=("pull", "upgrade", "rollback", "staged", "first-boot"),
                        help="what the power is cut in (default: %(default)s)")
    parser.add_argument("--second", metavar="NAME", help="cut the boot that follows this state, and not what led to it")
    parser.add_argument("--state", metavar="NAME", help="boot this state and no other: 'epoch 17, without write 3'")
    parser.add_argument("--shell", action="store_true", help="with --state: sit down at its console")
    parser.add_argument("--shrink", action="store_true", help="with --state: find the fewest lost writes that break it")
    parser.set_defaults(command="machines:powercut")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clean", action="store_true", help="remove what killed runs left")
    parser.set_defaults(command="doctor:run")


def _add_dashboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--history", required=True, metavar="FILE|URL", help="an SQLite file or a PostgreSQL URL")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/dashboard"), metavar="DIR",
                        help="where the site goes (default: %(default)s)")
    parser.set_defaults(command="history:dashboard")


def _add_history(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    importing = commands.add_parser("import", help="add samples from JSON lines; those that are there stay single")
    sweeping = commands.add_parser("import-sweep", help="add what a sweep of power cuts, or a shard of it, came to")
    exporting = commands.add_parser("export", help="write every sample as JSON lines, or the newest for other programs")
    merging = commands.add_parser("merge", help="add every sample of another history")
    for parser in (importing, sweeping, exporting, merging):
        parser.add_argument("--history", required=True, metavar="FILE|URL", help="an SQLite file or a PostgreSQL URL")
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE", help="such as reports/metrics.jsonl")
    sweeping.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a powercut.json")
    exporting.add_argument("--format", default="jsonl", choices=FORMATS, help="(default: %(default)s)")
    exporting.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of standard output")
    merging.add_argument("other", metavar="OTHER", help="the history to take from; it is not changed")
    importing.set_defaults(command="history:add_samples")
    sweeping.set_defaults(command="history:add_sweep")
    exporting.set_defaults(command="history:export")
    merging.set_defaults(command="history:merge")


def _add_gate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    merging = commands.add_parser("merge", help="one verdict out of the gate.json of each shard")
    merging.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the gate.json of a shard")
    merging.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the reports go")
    merging.add_argument("--sign-with", type=Path, metavar="KEY", help="sign the verdict with this key of minisign")
    merging.set_defaults(command="gate:join")
    verifying = commands.add_parser("verify", help="check a signature; the exit status is the verdict's")
    verifying.add_argument("file", type=Path, metavar="FILE", help="a gate.json, its signature beside it")
    verifying.add_argument("-p", "--public-key", type=Path, required=True, metavar="KEY", help="minisign's public key")
    verifying.add_argument("--image", type=Path, metavar="FILE", help="make sure that it is this image's verdict")
    verifying.set_defaults(command="gate:verify")
    commands.add_parser("schema", help="print the JSON Schema of gate.json").set_defaults(command="gate:print_schema")
