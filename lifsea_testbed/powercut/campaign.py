"""Campaigns: record an operation unless that was done, sweep its crash states within a budget, and write the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lifsea_testbed.errors import CallerError, GuestFailure, NotJudged, Reason, TestbedError
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut import qcow2_writer, report
from lifsea_testbed.powercut import recording as recordings
from lifsea_testbed.powercut.crash_states import CrashKind, CrashState, smallest
from lifsea_testbed.powercut.operation import (
    OPERATIONS,
    CheckDepth,
    Operation,
    PreparedDisk,
    PullOperation,
    SecondBootOperation,
    UpgradeOperation,
)
from lifsea_testbed.powercut.recording import Recording, Timeline
from lifsea_testbed.powercut.sweep import Sweep, plan
from lifsea_testbed.powercut.verdicts import CrashResult, CrashResults, CrashVerdict, Evidence, judged_as
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.support.deadline import Deadline, seconds
from lifsea_testbed.support.sanitize import dashed, printable
from lifsea_testbed.support.shard import ShardIndex
from lifsea_testbed.upgrade.tools import OSTREE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

#: The least interval between two lines of progress in a log (seconds).
_LINE_EVERY = 60.0
_FOREVER = 365 * 24 * 3600.0
_NAMES = {kind.name.lower().replace("_", "-"): kind for kind in CrashKind}
#: The operations that a suite cuts, and the share of the remaining time that each may take: the states of a pull take
#: longer and matter less.
_OF_A_SUITE = {PullOperation.name: 0.3, UpgradeOperation.name: 1.0}


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The options of a sweep: the operation to cut, kinds of states, shard, depth of the checks, budget (seconds).

    With `second` the boot after the cut of that name is cut. `at_once` states are booted at the same time, by default
    as many as the host has capacity for.
    """

    operation: str = "upgrade"
    second: str = ""
    reports: Path
    recording: Path
    budget: float = _FOREVER
    shard: ShardIndex
    kinds: tuple[CrashKind, ...] = tuple(CrashKind)
    seed: int = 1
    depth: CheckDepth = CheckDepth.BOOT
    at_once: int | None = None

    @classmethod
    def parse(cls, *, reports: Path, recording: Path | None = None, budget: str | None = None, shard: str = "1/1",
              only: Sequence[str] | None = None, seed: int = 1, depth: str = CheckDepth.BOOT,
              operation: str = UpgradeOperation.name, second: str | None = None, at_once: int | None = None) -> Self:
        """Parses the options of the command line.

        Raises:
            CallerError: an option has no such value.
        """
        if operation not in OPERATIONS:
            raise CallerError(f"--cut {operation}: unknown operation", hint=f"one of {', '.join(OPERATIONS)}")
        options = cls(
            reports=reports, recording=reports, budget=_FOREVER if budget is None else seconds(budget, "--budget"),
            shard=ShardIndex.parse(shard), kinds=_kinds(only), seed=seed, operation=operation, second=second or "",
            at_once=at_once, depth=CheckDepth(depth).at_least(OPERATIONS[operation].depth),
        )  # fmt: skip
        return replace(options, recording=(recording or reports / _report_name(operation)).resolve())

    @property
    def name(self) -> str:
        """The name of the report, without a suffix."""
        name = _report_name(self.operation)
        return f"{name}-second-{dashed(self.second)}" if self.second else name

    @property
    def results(self) -> Path:
        """The file of the states' results."""
        return self.directory / "results.jsonl"

    @property
    def directory(self) -> Path:
        """The directory of the recording that is swept; that of a second boot lies below that of the first cut."""
        return self.recording / f"second-{dashed(self.second)}" if self.second else self.recording


@dataclass(frozen=True, kw_only=True)
class PowerCuts:
    """The sweeps of one run of the suites: their summaries by operation, and the time given to all of them."""

    summaries: Mapping[str, report.SweepSummary]
    budget: str

    @property
    def broken(self) -> list[str]:
        """A line for each broken state; the ends of their consoles are in the reports."""
        return [f"{cut}: {line}" for cut, summary in self.summaries.items() for line in summary.failure_lines]

    def require_all(self) -> None:
        """Raises NotJudged, with the numbers, if the budget left any disk or confirmation out."""
        if found := [f"{cut}: {summary.left} of {summary.distinct} disks and {summary.unconfirmed} confirmations "
                     f"({summary.line})" for cut, summary in self.summaries.items()
                     if summary.left or summary.unconfirmed]:  # fmt: skip
            raise NotJudged(f"--power-cuts {self.budget} left out {'; '.join(found)}: the same command continues there",
                            Reason.OPTION)


def sweep_for_suite(factory: MachineFactory, reports: Path, budget: str | None) -> PowerCuts:
    """Sweeps the pull and the deployment of an upgrade within the time that a run of the suites was given.

    A tool other than ostree itself pulls and deploys in one operation.

    Raises:
        NotJudged: the run was given no time for power cuts.
        CallerError: the budget is not a duration.
    """
    if budget is None:
        raise NotJudged("no time was given for power cuts (--power-cuts 30m)", Reason.OPTION)
    deadline, found = Deadline.after(seconds(budget, "--power-cuts")), dict[str, report.SweepSummary]()
    in_steps = factory.profile.upgrades.tool == OSTREE
    for operation, share in _OF_A_SUITE.items():
        if operation == PullOperation.name and not in_steps:
            continue
        options = SweepOptions.parse(reports=reports, operation=operation)
        directory = options.recording.with_name(f"{_report_name(operation)}-{factory.image.sha256[:12]}")
        found[operation] = survey(factory, replace(options, recording=directory, budget=share * deadline.remaining))
    return PowerCuts(summaries=found, budget=budget)


@contextlib.contextmanager
def open_sweep(factory: MachineFactory, options: SweepOptions) -> Iterator[tuple[Sweep, Timeline]]:
    """Opens the recording, which is made first if there is none; yields the sweep over it, and its time line."""
    recording = _recorded(factory, options.recording, OPERATIONS[options.operation])
    if options.second:
        recording = _recorded(factory, options.directory, _second_boot(factory, recording, options))
    with recordings.timeline(recording, factory.image, seed=options.seed) as timeline, \
            qcow2_writer.Milestones(timeline.contents, timeline.states, recording.directory) as milestones:  # fmt: skip
        yield Sweep(factory, recording, timeline, milestones, depth=options.depth,
                    at_once=options.at_once or factory.concurrency()), timeline  # fmt: skip


def _recorded(factory: MachineFactory, directory: Path, operation: Operation) -> Recording:
    recording = recordings.load(directory, factory.image, factory.next_image, operation.name)
    if recording is None:
        factory.announce(f"recording: {operation.name}")
        recording = recordings.record(factory, directory, operation)
    if factory.profile.name != recording.facts.profile:
        factory.profile = profiles.load(recording.facts.profile)
    return recording


def _second_boot(factory: MachineFactory, first: Recording, options: SweepOptions) -> SecondBootOperation:
    """The boot after a cut; the disk of that cut is written beside the first recording."""
    facts, cut = first.facts, options.recording / f"cut-{dashed(options.second)}.qcow2"
    with recordings.timeline(first, factory.image, seed=options.seed) as timeline:
        state = timeline.states.find(options.second)
        qcow2_writer.write(cut, timeline.contents.clusters(state), size=facts.disk_size)
    prepared = PreparedDisk(instance=recordings.instance(factory, facts), layers=(*first.layers, cut), old=facts.old,
                            new=facts.new)  # fmt: skip
    return SecondBootOperation(prepared, announced=facts.announced <= state.latest)


def sweep(factory: MachineFactory, options: SweepOptions, console: Console | None = None) -> report.SweepSummary:
    """Sweeps as `survey` does, and prints the numbers.

    Raises:
        GuestFailure: a state boots neither the old image nor the new one, or the old one after success was announced.
        TestbedError: a boot contradicted an inferred verdict.
    """
    summary = survey(factory, options, console)
    print(summary.line)
    if summary.failures:
        raise _failure(options, summary)
    return summary


def survey(factory: MachineFactory, options: SweepOptions, console: Console | None = None) -> report.SweepSummary:
    """Sweeps, shows the progress, and writes the report, also when it is interrupted.

    Raises:
        TestbedError: a boot contradicted an inferred verdict.
    """
    deadline = Deadline.after(options.budget)
    with open_sweep(factory, options) as (sweeper, timeline):
        planned = plan(timeline, options.kinds, options.shard)
        results = CrashResults(options.results)
        try:
            _follow(sweeper.run(planned, results, deadline), timeline, results, list(planned.of), console)
        finally:
            summary = report.summarise(timeline, planned, results)
            report.write(options.reports / options.name, timeline, summary)
        if summary.failures and not deadline.expired:
            whole = timeline.states.find(summary.failures[0].state)
            summary = replace(summary, smallest=_smallest(factory, sweeper, timeline, results, whole, deadline))
            report.write(options.reports / options.name, timeline, summary)
    if summary.contradicted:
        raise TestbedError(f"{summary.contradicted} boots contradicted the verdict that was inferred for their states",
                           expected="a boot that reads the same sectors ends the same",
                           hint=f"their states are marked `contradicted` in {options.name}.json")  # fmt: skip
    return summary


def boot(factory: MachineFactory, options: SweepOptions, name: str) -> CrashResult:
    """Boots the state of that name and prints its verdict.

    Raises:
        GuestFailure: it is neither the old image nor the new one, or the old one after success was announced.
    """
    with open_sweep(factory, options) as (sweeper, timeline):
        state = timeline.states.find(name)
        result = judged_as(sweeper.boot(state, timeline.contents.digest(state)), state, timeline.facts)
    if result.outcome is CrashVerdict.BROKEN:
        raise GuestFailure(f"{name}: {result.why}", expected="the old or the new image, whole", evidence=result.console)
    print(f"{name}: {result.outcome}, after {result.seconds:.0f} s")
    return result


def shrink(factory: MachineFactory, options: SweepOptions, name: str) -> str:
    """Searches for the fewest lost writes that break a disk as that state's do; returns the name of their state.

    Raises:
        CallerError: the state is not broken by lost writes.
    """
    with open_sweep(factory, options) as (sweeper, timeline):
        whole, results = timeline.states.find(name), CrashResults(options.results)
        found = _smallest(factory, sweeper, timeline, results, whole, Deadline.after(_FOREVER))
    if not found:
        raise CallerError(f"{name}: not broken by the writes that it lost; nothing to shrink",
                          hint=f"--state '{name}' without --shrink boots it")  # fmt: skip
    return found


def _smallest(factory: MachineFactory, sweeper: Sweep, timeline: Timeline, results: CrashResults, whole: CrashState,
              deadline: Deadline) -> str:
    """The name of the state with the fewest lost writes that is broken like `whole`, as far as found by the deadline.

    Empty if `whole` is not broken by the writes that it lost.
    """
    states = timeline.states

    def breaks(numbers: Sequence[int]) -> bool:
        if deadline.expired:
            return False
        state = states.lacking(whole, numbers)
        result = judged_as(sweeper.result_of(state, results), state, timeline.facts)
        factory.announce(f"{state.name}: {result.outcome}")
        return result.outcome is CrashVerdict.BROKEN

    lost = states.lost(whole)
    return states.lacking(whole, smallest(lost, breaks)).name if lost and breaks(lost) else ""


@contextlib.contextmanager
def machine(factory: MachineFactory, options: SweepOptions, name: str) -> Iterator[Machine]:
    """The machine on the disk of the state of that name, off."""
    with open_sweep(factory, options) as (sweeper, timeline), sweeper.machine(timeline.states.find(name)) as made:
        yield made


def _follow(going: Iterator[CrashResult], timeline: Timeline, results: CrashResults, digests: Sequence[str],
            console: Console | None) -> None:
    """Shows how many disks are done and left, and prints each broken state."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("power cuts"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[broken]} broken"),
               TimeElapsedColumn())  # fmt: skip
    done = [results.of[digest] for digest in digests if digest in results.of]
    broken = sum(result.outcome is CrashVerdict.BROKEN for result in done)
    with Progress(*columns, console=console) as progress:
        task, logged = progress.add_task("", total=len(digests), completed=len(done), broken=broken), time.monotonic()
        for result in going:
            counted = judged_as(result, timeline.states.find(result.state), timeline.facts)
            broken += counted.outcome is CrashVerdict.BROKEN
            confirming = result.how not in (Evidence.BOOTED, Evidence.INFERRED)
            progress.update(task, advance=not confirming, broken=broken)
            logged = _log(progress, logged, confirming=confirming)
            if counted.outcome is CrashVerdict.BROKEN:
                progress.console.print(printable(f"{counted.state}: broken: {counted.why}"), markup=False)


def _log(progress: Progress, last: float, *, confirming: bool) -> float:
    """Prints a line where the output is not a terminal, if the last one is old enough; returns the time of the last."""
    if progress.console.is_terminal or time.monotonic() - last < _LINE_EVERY:
        return last
    task, end = progress.tasks[0], ", confirming" if confirming else ""
    progress.console.print(f"power cuts: {task.completed:.0f} of {task.total:.0f} disks, "
                           f"{task.fields['broken']} broken{end}", highlight=False)  # fmt: skip
    return time.monotonic()


def _report_name(operation: str) -> str:
    return "powercut" if operation == UpgradeOperation.name else f"powercut-{operation}"


def _failure(options: SweepOptions, summary: report.SweepSummary) -> GuestFailure:
    first, names = summary.failures[0], "\n".join(summary.failure_lines[:20])
    return GuestFailure(
        f"power cuts lead to {summary.broken} broken disks, such as {first.state}: {first.why}",
        expected="the old or the new image, whole", evidence=f"{names}\n\n{first.console}",
        hint=f"--state '{first.state}' boots it again; {options.name}.json lists all",
    )  # fmt: skip


def _kinds(names: Sequence[str] | None) -> tuple[CrashKind, ...]:
    for name in names or ():
        if name not in _NAMES:
            raise CallerError(f"--only {name}: unknown kind of crash state", hint=f"one of {', '.join(_NAMES)}")
    return tuple(kind for name, kind in _NAMES.items() if not names or name in names)
