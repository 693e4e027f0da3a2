"""The command line: `lifsea-testbed`, for what is not a run of pytest."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lifsea_testbed.ecs import instance_types
from lifsea_testbed.errors import CallerError, Explained, GuestFailure, HostError
from lifsea_testbed.support.sanitize import printable

if TYPE_CHECKING:
    from lifsea_testbed.machine.factory import Bench
    from lifsea_testbed.perf.history import History

#: Exit statuses: the gate's for what failed and for what is broken, pytest's for bad input, a shell's for Ctrl-C.
_FAILED, _USAGE, _BROKEN, _INTERRUPTED = 1, 4, 6, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; bad input is told in one line, all else with its evidence."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        return command(options) or 0
    except Explained as error:
        print(f"ERROR: {printable(_told(error))}", file=sys.stderr)
        if isinstance(error, GuestFailure):
            return _FAILED
        return _USAGE if isinstance(error, CallerError) else _BROKEN
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except ImportError as error:
        print(f"ERROR: {error} (hint: pip install 'lifsea-testbed[perf]')", file=sys.stderr)
        return _USAGE


def _told(error: Explained) -> str:
    known = {"expected: ": error.expected, "evidence:\n": error.evidence.rstrip(), "records: ": error.records}
    more = [f"{what}{told}" for what, told in known.items() if told and not isinstance(error, CallerError)]
    return "\n".join([error.one_line, *more])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lifsea-testbed", description="What is not a run of pytest.")
    parser.add_argument("--version", action="version", version=importlib.metadata.version("lifsea-testbed"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_doctor(commands.add_parser("doctor", help="look at what this host has of all that a run needs, and at what "
                                    "runs that were killed left on it"))  # fmt: skip
    _add_explain(commands.add_parser("explain", help="say what a claim promises, how it is judged, and what breaks it"))
    _add_shell(commands.add_parser("shell", help="boot an image and sit down at its console"))
    _add_boot_time(commands.add_parser("boot-time", help="boot an image again and again, and say how long and why"))
    _add_powercut(commands.add_parser("powercut", help="cut the power at every write of an upgrade"))
    _add_dashboard(commands.add_parser("dashboard", help="write a history as a static site"))
    gate = commands.add_parser("gate", help="merge, verify: what is done with a gate.json")
    _add_gate(gate.add_subparsers(required=True, metavar="COMMAND"))
    history = commands.add_parser("history", help="carry a history from place to place")
    _add_history(history.add_subparsers(required=True, metavar="COMMAND"))
    completion = commands.add_parser("completion", help="write what completes this command in a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which one")
    completion.set_defaults(command=_complete)
    return parser


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("claim", nargs="?", metavar="CLAIM", help="its id; without one, all of them are listed")
    parser.set_defaults(command=_explain)


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
    parser.set_defaults(command=_shell, next_image=None)


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
    parser.set_defaults(command=_boot_time, next_image=None)


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
    parser.set_defaults(command=_powercut)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clean", action="store_true", help="remove what killed runs left")
    parser.set_defaults(command=_doctor)


def _add_dashboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--history", required=True, metavar="FILE|URL", help="an SQLite file or a PostgreSQL URL")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/dashboard"), metavar="DIR",
                        help="where the site goes (default: %(default)s)")
    parser.set_defaults(command=_dashboard)


def _add_history(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    importing = commands.add_parser("import", help="add samples from JSON lines; those that are there stay single")
    sweeping = commands.add_parser("import-sweep", help="add what a sweep of power cuts, or a shard of it, came to")
    exporting = commands.add_parser("export", help="write every sample as JSON lines, or the newest for other programs")
    merging = commands.add_parser("merge", help="add every sample of another history")
    for parser in (importing, sweeping, exporting, merging):
        parser.add_argument("--history", required=True, metavar="FILE|URL", help="an SQLite file or a PostgreSQL URL")
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE", help="such as reports/metrics.jsonl")
    sweeping.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a powercut.json")
    exporting.add_argument("--format", default="jsonl", choices=sorted(_FORMATS), help="(default: %(default)s)")
    exporting.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of standard output")
    merging.add_argument("other", metavar="OTHER", help="the history to take from; it is not changed")
    importing.set_defaults(command=_import)
    sweeping.set_defaults(command=_import_sweep)
    exporting.set_defaults(command=_export)
    merging.set_defaults(command=_merge)


def _doctor(options: argparse.Namespace) -> None:
    from lifsea_testbed.cli import doctor
    from lifsea_testbed.support import private_dir

    findings = doctor.examine(doctor.gather())
    print(*findings, sep="\n")
    found = private_dir.clean() if options.clean else private_dir.find()
    for leftover in found:
        print(f"{'removed' if options.clean else 'left by a dead run'}: {leftover}")
    if found and not options.clean:
        print("the next run removes it, and so does --clean")
    if missing := [finding.what for finding in findings if finding.state is doctor.State.MISSING]:
        raise HostError(f"this host can run no image: {', '.join(missing)}", hint="each has its remedy above")


def _explain(options: argparse.Namespace) -> None:
    from lifsea_testbed.profiles import explanation

    print(explanation.explain(options.claim) if options.claim else explanation.overview())


def _complete(options: argparse.Namespace) -> None:
    from lifsea_testbed.cli import completion

    print(completion.script(_parser(), options.shell))


def _add_gate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    merging = commands.add_parser("merge", help="one verdict out of the gate.json of each shard")
    merging.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the gate.json of a shard")
    merging.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the reports go")
    merging.add_argument("--sign-with", type=Path, metavar="KEY", help="sign the verdict with this key of minisign")
    merging.set_defaults(command=_gate_merge)
    verifying = commands.add_parser("verify", help="check a signature; the exit status is the verdict's")
    verifying.add_argument("file", type=Path, metavar="FILE", help="a gate.json, its signature beside it")
    verifying.add_argument("-p", "--public-key", type=Path, required=True, metavar="KEY", help="minisign's public key")
    verifying.add_argument("--image", type=Path, metavar="FILE", help="make sure that it is this image's verdict")
    verifying.set_defaults(command=_gate_verify)
    commands.add_parser("schema", help="print the JSON Schema of gate.json").set_defaults(command=_gate_schema)


def _gate_merge(options: argparse.Namespace) -> int:
    from lifsea_testbed.cli import gate

    return gate.join(options)


def _gate_verify(options: argparse.Namespace) -> int:
    from lifsea_testbed.cli import gate

    return gate.verify(options)


def _gate_schema(options: argparse.Namespace) -> int:
    from lifsea_testbed.cli import gate

    return gate.print_schema(options)


def _shell(options: argparse.Namespace) -> None:
    from lifsea_testbed.cli import shell
    from lifsea_testbed.machine import snapshot

    if options.kept:
        kept = snapshot.load(options.kept.resolve())
        options.image, options.profile, options.accel = kept.facts.image, kept.facts.profile, kept.facts.accelerator
        options.instance_type = kept.facts.instance.type.name
    elif not options.image:
        raise CallerError("neither an image nor a kept machine was given", hint="--image FILE, or --kept DIR")
    with _bench(options) as bench:
        if options.kept:
            shell.sit_down_at(bench, kept)
        else:
            shell.sit_down(bench)


def _powercut(options: argparse.Namespace) -> None:
    from lifsea_testbed.cli import shell
    from lifsea_testbed.powercut import campaign

    wish = campaign.SweepOptions.parse(
        reports=options.reports.resolve(), recording=options.recording, budget=options.budget, shard=options.shard,
        only=options.only, seed=options.seed, depth=options.depth, operation=options.cut, second=options.second,
        at_once=options.at_once,
    )  # fmt: skip
    if options.state and options.shell:
        shell.require_terminal()
    with _bench(options) as bench:
        bench.say = print
        if not options.state:
            campaign.sweep(bench, wish)
        elif options.shell:
            with campaign.machine(bench, wish, options.state) as machine:
                machine.start()
                shell.attend(machine)
        elif options.shrink:
            print(f"the smallest loss: {campaign.shrink(bench, wish, options.state)}")
        else:
            campaign.boot(bench, wish, options.state)


def _boot_time(options: argparse.Namespace) -> None:
    from lifsea_testbed.boottime import campaign
    from lifsea_testbed.boottime.marks import BootMark
    from lifsea_testbed.boottime.observation import BootNumber

    if options.boots < 1:
        raise CallerError(f"--boots {options.boots}: nothing to see", hint="ten show more than one")
    wish = campaign.BootTimeOptions(boots=options.boots, floor=options.floor / 100, until=BootMark(options.until),
                                    which=tuple(BootNumber) if options.later else (BootNumber.FIRST,),
                                    initcalls=options.initcalls,
                                    reports=options.reports.resolve() / "boot-time")  # fmt: skip
    with ExitStack() as stack:
        images = [options.image, *([options.against] if options.against else [])]
        benches = [stack.enter_context(_bench(options, image)) for image in images]
        for line in campaign.run(benches, wish):
            print(printable(line), flush=True)


@contextmanager
def _bench(options: argparse.Namespace, image: str = "") -> Iterator[Bench]:
    from lifsea_testbed.machine.preflight import Wish, prepare

    wish = Wish(image=image or options.image, next_image=options.next_image, profile=options.profile,
                instance_type=options.instance_type, accelerator=options.accel,
                reports=options.reports.resolve())  # fmt: skip
    bench = prepare(wish).bench()
    try:
        yield bench
    finally:
        bench.close()


def _dashboard(options: argparse.Namespace) -> None:
    from lifsea_testbed.perf import dashboard, trend

    with _existing(options.history) as history, _writing(options.output):
        dashboard.write(trend.trends(history), options.output)
    print(f"dashboard: {options.output / 'index.html'}")


def _import(options: argparse.Namespace) -> None:
    from lifsea_testbed.perf import jsonlines

    with _history(options.history) as history:
        for path in options.files:
            try:
                with path.open(encoding="utf-8", errors="replace") as file:
                    added = history.add(jsonlines.read(file, str(path)))
            except OSError as error:
                raise CallerError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from None
            print(f"{path}: {added} samples are new")


def _import_sweep(options: argparse.Namespace) -> None:
    from lifsea_testbed.perf import sweeps

    with _history(options.history) as history:
        for path in options.files:
            print(f"{path}: {history.add(sweeps.read(path))} samples are new")


def _export(options: argparse.Namespace) -> None:
    with _existing(options.history) as history, _writing(options.output):
        if options.output is None:
            _FORMATS[options.format](history, sys.stdout)
            return
        with options.output.open("w", encoding="utf-8") as file:
            _FORMATS[options.format](history, file)


def _merge(options: argparse.Namespace) -> None:
    with _existing(options.other) as other, _history(options.history) as history:
        print(f"{options.other}: {history.add(other.samples())} samples are new")


def _history(place: str) -> History:
    from lifsea_testbed.perf.history import History

    return History(place)


def _existing(place: str) -> History:
    """The history at that place; unlike elsewhere, a file that is not there is an error."""
    if "://" not in place and not Path(place).is_file():
        raise CallerError(f"{place}: no such history", hint="check the path")
    return _history(place)


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CallerError(f"{path}: cannot be written: {error.strerror}", hint="choose another -o") from None


def _write_lines(history: History, file: TextIO) -> None:
    from lifsea_testbed.perf import jsonlines

    jsonlines.write(history.samples(), file)


def _write_openmetrics(history: History, file: TextIO) -> None:
    from lifsea_testbed.perf import exporters, trend

    file.write(exporters.openmetrics(trend.trends(history)))


def _write_benchmark(history: History, file: TextIO, *, better: str) -> None:
    from lifsea_testbed.perf import exporters, trend
    from lifsea_testbed.perf.metric import Better

    file.write(exporters.github_action_benchmark(trend.trends(history), Better(better)))


def _write_grafana(history: History, file: TextIO) -> None:
    from lifsea_testbed.perf import exporters

    file.write(exporters.grafana())


_FORMATS: dict[str, Callable[[History, TextIO], None]] = {
    "jsonl": _write_lines,
    "openmetrics": _write_openmetrics,
    "github-action-benchmark-smaller": partial(_write_benchmark, better="lower"),
    "github-action-benchmark-bigger": partial(_write_benchmark, better="higher"),
    "grafana": _write_grafana,
}
