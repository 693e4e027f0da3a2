"""A campaign: record an upgrade unless that was done, sweep its states as long as the budget lasts, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lifsea_testbed.errors import CallerError, GuestFailure, NotJudged, TestbedError
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut import qcow2_writer, report
from lifsea_testbed.powercut import recording as recordings
from lifsea_testbed.powercut.crash_states import Kind, State
from lifsea_testbed.powercut.operation import SUBJECTS, Depth, Prepared, Pull, SecondBoot, Subject, Upgrade
from lifsea_testbed.powercut.recording import Recording, Timeline
from lifsea_testbed.powercut.results import How, Outcome, Result, Results, judged
from lifsea_testbed.powercut.shrink import smallest
from lifsea_testbed.powercut.sweep import Sweep, plan
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.support.deadline import Deadline, parse_duration
from lifsea_testbed.support.sanitize import printable, slug
from lifsea_testbed.support.shard import ShardIndex

#: How often a log gets a line (seconds).
_LINE_EVERY = 60.0
_FOREVER = 365 * 24 * 3600.0
_NAMES = {kind.name.lower().replace("_", "-"): kind for kind in Kind}
#: What a suite cuts, and how much of the time that is left each may take: a pull's states take longer and matter less.
_OF_A_SUITE = {Pull.name: 0.3, Upgrade.name: 1.0}


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What is to be swept: of which subject which kinds of states, which part, how deep, for how long (seconds).

    With `second` it is the boot after the cut of that name. `at_once` states are booted at the same time; unless that
    is said, as many as the host bears.
    """

    subject: str = "upgrade"
    second: str = ""
    reports: Path
    recording: Path
    budget: float = _FOREVER
    shard: ShardIndex
    kinds: tuple[Kind, ...] = tuple(Kind)
    seed: int = 1
    depth: Depth = Depth.BOOT
    at_once: int | None = None

    @classmethod
    def parse(cls, *, reports: Path, recording: Path | None = None, budget: str | None = None, shard: str = "1/1",
              only: Sequence[str] | None = None, seed: int = 1, depth: str = Depth.BOOT, subject: str = Upgrade.name,
              second: str | None = None, at_once: int | None = None) -> Self:
        """Reads a campaign as it is written on the command line.

        Raises:
            CallerError: something of it cannot be understood.
        """
        if subject not in SUBJECTS:
            raise CallerError(f"{subject}: nothing that is cut", hint=", ".join(SUBJECTS))
        if at_once is not None and at_once < 1:
            raise CallerError(f"--at-once {at_once}: no state would be booted", hint="left out, it suits the host")
        wished = cls(
            reports=reports, recording=reports,
            budget=_FOREVER if budget is None else parse_duration(budget, "--budget"),
            shard=ShardIndex.parse(shard), kinds=_kinds(only), seed=seed, subject=subject, second=second or "",
            at_once=at_once, depth=Depth(depth).at_least(SUBJECTS[subject].depth),
        )  # fmt: skip
        return replace(wished, recording=(recording or reports / _named(subject)).resolve())

    @property
    def name(self) -> str:
        """What its report is called."""
        return f"{_named(self.subject)}-second-{slug(self.second)}" if self.second else _named(self.subject)

    @property
    def results(self) -> Path:
        """Where the results of the states are kept."""
        return self.place / "results.jsonl"

    @property
    def place(self) -> Path:
        """The directory of the recording that is swept: that of the second boot lies in that of the first cut."""
        return self.recording / f"second-{slug(self.second)}" if self.second else self.recording


@dataclass(frozen=True, kw_only=True)
class PowerCuts:
    """What became of the sweeps within a suite: of each what came of it, by what was cut; how long all could take."""

    summaries: Mapping[str, report.Summary]
    budget: str

    @property
    def broken(self) -> list[str]:
        """What is broken, one line a state; the console's ends are in the reports."""
        return [f"{cut}: {line}" for cut, summary in self.summaries.items() for line in summary.told]

    def require_all(self) -> None:
        """Raises NotJudged, with the numbers, if the budget left anything out."""
        if found := [f"{cut}: {summary.left} of {summary.distinct} disks and {summary.unconfirmed} confirmations "
                     f"({summary.line})" for cut, summary in self.summaries.items()
                     if summary.left or summary.unconfirmed]:  # fmt: skip
            raise NotJudged(f"{self.budget} left out {'; '.join(found)}: the same run again goes on from here")


def cut(factory: MachineFactory, reports: Path, budget: str | None) -> PowerCuts:
    """Sweeps all that belongs to an upgrade for as long as a suite was given.

    Raises:
        NotJudged: it was given no time.
        CallerError: the budget is no time.
    """
    if budget is None:
        raise NotJudged("no time was given for power cuts (--power-cuts 30m)")
    deadline, found = Deadline.after(parse_duration(budget, "--power-cuts")), dict[str, report.Summary]()
    for subject, share in _OF_A_SUITE.items():
        wished = Campaign.parse(reports=reports, subject=subject)
        place = wished.recording.with_name(f"{_named(subject)}-{factory.image.sha256[:12]}")
        found[subject] = survey(factory, replace(wished, recording=place, budget=share * deadline.remaining))
    return PowerCuts(summaries=found, budget=budget)


@contextlib.contextmanager
def prepared(factory: MachineFactory, campaign: Campaign) -> Iterator[tuple[Sweep, Timeline]]:
    """The recording, made now if there is none, open; and what boots its states."""
    recording = _recorded(factory, campaign.recording, SUBJECTS[campaign.subject])
    if campaign.second:
        recording = _recorded(factory, campaign.place, _second(factory, recording, campaign))
    with recordings.timeline(recording, factory.image, seed=campaign.seed) as timeline, \
            qcow2_writer.Milestones(timeline.contents, timeline.states, recording.directory) as milestones:  # fmt: skip
        yield Sweep(factory, recording, timeline, milestones, depth=campaign.depth,
                    at_once=campaign.at_once or factory.concurrency()), timeline  # fmt: skip


def _recorded(factory: MachineFactory, place: Path, subject: Subject) -> Recording:
    recording = recordings.load(place, factory.image, factory.next_image, subject.name)
    if recording is None:
        factory.announce(f"recording: {subject.name}")
        recording = recordings.record(factory, place, subject)
    if factory.profile.name != recording.facts.profile:
        factory.profile = profiles.load(recording.facts.profile)
    return recording


def _second(factory: MachineFactory, first: Recording, campaign: Campaign) -> SecondBoot:
    """The boot after a cut, whose disk is made and kept for it."""
    facts, cut = first.facts, campaign.recording / f"cut-{slug(campaign.second)}.qcow2"
    with recordings.timeline(first, factory.image, seed=campaign.seed) as timeline:
        state = timeline.states.find(campaign.second)
        qcow2_writer.write(cut, timeline.contents.clusters(state), size=facts.disk_size)
    prepared = Prepared(instance=recordings.instance(factory, facts), layers=(*first.layers, cut), old=facts.old,
                        new=facts.new)  # fmt: skip
    return SecondBoot(prepared, announced=facts.announced <= state.latest)


def sweep(factory: MachineFactory, campaign: Campaign, console: Console | None = None) -> report.Summary:
    """Sweeps as `survey` does, and prints the numbers.

    Raises:
        GuestFailure: some state neither boots the old image nor the new one.
        TestbedError: a boot came out otherwise than was inferred.
    """
    summary = survey(factory, campaign, console)
    print(summary.line)
    if summary.failures:
        raise _failure(campaign, summary)
    return summary


def survey(factory: MachineFactory, campaign: Campaign, console: Console | None = None) -> report.Summary:
    """Sweeps, shows how it goes, and leaves the findings among the reports, also when it is interrupted.

    Raises:
        TestbedError: a boot came out otherwise than was inferred.
    """
    deadline = Deadline.after(campaign.budget)
    with prepared(factory, campaign) as (sweeper, timeline):
        planned = plan(timeline, campaign.kinds, campaign.shard)
        results = Results(campaign.results)
        try:
            _follow(sweeper.run(planned, results, deadline), timeline, results, list(planned.of), console)
        finally:
            summary = report.summarise(timeline, planned, results)
            report.write(campaign.reports / campaign.name, timeline, summary)
        if summary.failures and not deadline.expired:
            whole = timeline.states.find(summary.failures[0].state)
            summary = replace(summary, smallest=_smallest(factory, sweeper, timeline, results, whole, deadline))
            report.write(campaign.reports / campaign.name, timeline, summary)
    if summary.contradicted:
        raise TestbedError(f"{summary.contradicted} boots came out otherwise than was inferred",
                           expected="a boot that reads the same ends the same",
                           hint=f"see {campaign.name}.json")  # fmt: skip
    return summary


def boot(factory: MachineFactory, campaign: Campaign, name: str) -> Result:
    """Boots the state of that name and says what came up.

    Raises:
        GuestFailure: neither the old image nor the new one, or the old one when it had to be the new one.
    """
    with prepared(factory, campaign) as (sweeper, timeline):
        state = timeline.states.find(name)
        result = judged(sweeper.boot(state, timeline.contents.digest(state)), state, timeline.facts)
    if result.outcome is Outcome.BROKEN:
        raise GuestFailure(f"{name}: {result.why}", expected="the old or the new image, whole", evidence=result.console)
    print(f"{name}: {result.outcome}, after {result.seconds:.0f} s")
    return result


def shrink(factory: MachineFactory, campaign: Campaign, name: str) -> str:
    """Finds the fewest lost writes that break a disk as that state's do; returns the name of the state without them.

    Raises:
        CallerError: the state is not broken, or lacks nothing of its epoch.
    """
    with prepared(factory, campaign) as (sweeper, timeline):
        whole, results = timeline.states.find(name), Results(campaign.results)
        found = _smallest(factory, sweeper, timeline, results, whole, Deadline.after(_FOREVER))
    if not found:
        raise CallerError(f"{name}: no lost write breaks it", hint="--state alone boots it again")
    return found


def _smallest(factory: MachineFactory, sweeper: Sweep, timeline: Timeline, results: Results, whole: State,
              deadline: Deadline) -> str:
    """The name of the state that lacks the fewest writes and is broken like that one, as far as found by the deadline.

    Nothing if it is not for lost writes that it is broken.
    """
    states = timeline.states

    def breaks(numbers: Sequence[int]) -> bool:
        if deadline.expired:
            return False
        state = states.lacking(whole, numbers)
        result = judged(sweeper.known(state, results), state, timeline.facts)
        factory.announce(f"{state.name}: {result.outcome}")
        return result.outcome is Outcome.BROKEN

    lost = states.lost(whole)
    return states.lacking(whole, smallest(lost, breaks)).name if lost and breaks(lost) else ""


@contextlib.contextmanager
def machine(factory: MachineFactory, campaign: Campaign, name: str) -> Iterator[Machine]:
    """The machine on the disk of the state of that name, off."""
    with prepared(factory, campaign) as (sweeper, timeline), sweeper.machine(timeline.states.find(name)) as made:
        yield made


def _follow(going: Iterator[Result], timeline: Timeline, results: Results, digests: Sequence[str],
            console: Console | None) -> None:
    """Shows how many disks are done and left, and which are broken."""
    columns = (TextColumn("power cuts"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[broken]} broken"),
               TimeElapsedColumn())  # fmt: skip
    done = [results.of[digest] for digest in digests if digest in results.of]
    broken = sum(result.outcome is Outcome.BROKEN for result in done)
    with Progress(*columns, console=console) as progress:
        task, told = progress.add_task("", total=len(digests), completed=len(done), broken=broken), time.monotonic()
        for result in going:
            counted = judged(result, timeline.states.find(result.state), timeline.facts)
            broken += counted.outcome is Outcome.BROKEN
            confirming = result.how not in (How.BOOTED, How.INFERRED)
            progress.update(task, advance=not confirming, broken=broken)
            told = _told(progress, told, confirming=confirming)
            if counted.outcome is Outcome.BROKEN:
                progress.console.print(printable(f"{counted.state}: broken: {counted.why}"), markup=False)


def _told(progress: Progress, last: float, *, confirming: bool) -> float:
    """Adds a line to a log, where a bar is not seen, if the last one is old enough; returns when the last one was."""
    if progress.console.is_terminal or time.monotonic() - last < _LINE_EVERY:
        return last
    task, end = progress.tasks[0], ", confirming" if confirming else ""
    progress.console.print(f"power cuts: {task.completed:.0f} of {task.total:.0f} disks, "
                           f"{task.fields['broken']} broken{end}", highlight=False)  # fmt: skip
    return time.monotonic()


def _named(subject: str) -> str:
    return "powercut" if subject == Upgrade.name else f"powercut-{subject}"


def _failure(campaign: Campaign, summary: report.Summary) -> GuestFailure:
    first, names = summary.failures[0], "\n".join(summary.told[:20])
    return GuestFailure(
        f"power cuts lead to {summary.broken} disks that are broken: {first.state}: {first.why}",
        expected="the old or the new image, whole", evidence=f"{names}\n\n{first.console}",
        hint=f"--state '{first.state}' boots it again; all are in {campaign.name}.json",
    )  # fmt: skip


def _kinds(names: Sequence[str] | None) -> tuple[Kind, ...]:
    for name in names or ():
        if name not in _NAMES:
            raise CallerError(f"{name}: no kind of state", hint=", ".join(_NAMES))
    return tuple(kind for name, kind in _NAMES.items() if not names or name in names)
