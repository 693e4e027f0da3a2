"""The report of a sweep: its numbers and states as JSON, a picture, and a listing of the disk of each broken state.

The listing shows a disk twice, as the boot loader and as the kernel read it: GRUB reads ext4 without the journal that
the kernel replays when it mounts it. The difference shows an upgrade that swaps its loader entries without having them
written to their place (ostree issue 3392).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lifsea_testbed.powercut import timeline_svg
from lifsea_testbed.powercut.crash_states import CrashState
from lifsea_testbed.powercut.inference import unconfirmed
from lifsea_testbed.powercut.recording import Timeline
from lifsea_testbed.powercut.sweep import SweepPlan
from lifsea_testbed.powercut.verdicts import CrashResult, CrashResults, CrashVerdict, Evidence, judged_as
from lifsea_testbed.support.lines import split_lines


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """A sweep in numbers: states enumerated, distinct disks, of these booted, inferred, left and broken; the states.

    Of those inferred a sample is booted as well: `confirmed` were, `unconfirmed` are yet to be. `contradicted` are
    boots whose verdict differs from the inferred one: then the inference is unsound. `seconds` is the time during which
    at least one boot ran. `smallest` is the name of the state with the fewest lost writes that is broken like the first
    failure; empty if none was searched for or found.
    """

    enumerated: int
    distinct: int
    booted: int
    inferred: int
    confirmed: int
    contradicted: int
    unconfirmed: int
    left: int
    broken: int
    old: int
    new: int
    seconds: float
    states: list[tuple[CrashState, CrashResult]]
    smallest: str = ""

    @property
    def line(self) -> str:
        """The numbers on one line."""
        rate = 60 * (self.booted + self.inferred) / self.seconds if self.seconds else 0.0
        return (f"powercut: {self.enumerated} states, {self.distinct} distinct, {self.booted} booted, "
                f"{self.inferred} inferred, {self.left} left, {self.broken} broken, {rate:.1f} states/min")  # fmt: skip

    @property
    def failures(self) -> list[CrashResult]:
        """One result for each broken disk."""
        found = {result.digest: result for _, result in reversed(self.states) if result.outcome is CrashVerdict.BROKEN}
        return list(reversed(found.values()))

    @property
    def failure_lines(self) -> list[str]:
        """A line for each broken disk; the first one is followed by the smallest loss that breaks it."""
        lines = [f"{result.state}: {result.why}" for result in self.failures]
        return [*lines[:1], *([f"{self.smallest}: the smallest loss for that"] if self.smallest else []), *lines[1:]]


def summarise(timeline: Timeline, planned: SweepPlan, results: CrashResults) -> SweepSummary:
    """Returns the numbers and results of the planned states.

    A disk counts as broken if it is broken for any state that leads to it: a cut after success was announced can leave
    the same disk as one before.
    """
    states = list(_states(timeline, planned, results))
    worst: dict[str, CrashVerdict] = {}
    for _, result in states:
        if worst.get(result.digest) is not CrashVerdict.BROKEN:
            worst[result.digest] = result.outcome
    how = Counter(results.of[digest].how for digest in worst)
    counts = {outcome: sum(found is outcome for found in worst.values()) for outcome in CrashVerdict}
    return SweepSummary(
        enumerated=planned.enumerated, distinct=len(planned.of), booted=len(worst) - how[Evidence.INFERRED],
        inferred=how[Evidence.INFERRED], confirmed=how[Evidence.CONFIRMED], contradicted=how[Evidence.CONTRADICTED],
        unconfirmed=len(unconfirmed(results.of[digest] for digest in worst)),
        left=len(planned.of) - len(worst),
        broken=counts[CrashVerdict.BROKEN], old=counts[CrashVerdict.OLD], new=counts[CrashVerdict.NEW],
        seconds=_spent([results.of[digest] for digest in worst]), states=states,
    )  # fmt: skip


def write(place: Path, timeline: Timeline, summary: SweepSummary) -> None:
    """Writes the JSON document and the SVG picture, at `place` with their suffixes."""
    numbers = {name: value for name, value in vars(summary).items() if name != "states"}
    broken = [{"state": result.state, "why": result.why, "console": result.console,
               "on disk": split_lines(timeline.disk.listing(timeline.states.find(result.state)))}
              for result in summary.failures]  # fmt: skip
    report = {
        "recording": asdict(timeline.facts), "summary": numbers, "epochs": len(timeline.states.tried),
        "broken": broken,
        "states": [_row(state, result) for state, result in summary.states],
    }  # fmt: skip
    place.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    place.with_suffix(".svg").write_text(timeline_svg.draw(timeline, summary.states), "utf-8")


def _spent(results: Sequence[CrashResult]) -> float:
    """The time during which at least one boot ran (seconds)."""
    spent = end = 0.0
    for result in sorted(results, key=lambda result: result.at):
        spent += max(0.0, result.at + result.seconds - max(end, result.at))
        end = max(end, result.at + result.seconds)
    return round(spent, 1)


def _row(state: CrashState, result: CrashResult) -> dict[str, str | float]:
    return {"state": state.name, "kind": state.kind, "outcome": result.outcome, "how": result.how, "why": result.why,
            "like": result.like, "digest": result.digest, "seconds": result.seconds}  # fmt: skip


def _states(timeline: Timeline, planned: SweepPlan, results: CrashResults) -> Iterator[tuple[CrashState, CrashResult]]:
    for digest, states in planned.of.items():
        if result := results.of.get(digest):
            yield from ((state, judged_as(result, state, timeline.facts)) for state in states)
