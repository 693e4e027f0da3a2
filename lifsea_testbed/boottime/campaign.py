"""Boots in turns, of one image or of two, and what they come to: figures, verdicts, suspects, charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.boottime import attribution, budget, charts, coldboots, kernel_only, observe
from lifsea_testbed.boottime import observation as observations
from lifsea_testbed.boottime.attribution import Growth
from lifsea_testbed.boottime.marks import END, Mark
from lifsea_testbed.boottime.observation import Observation, Which
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.perf.compare import Comparison, compare


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """What two images' boots come to, each kind of boot and each metric apart, and what grew."""

    judged: list[tuple[Which, Comparison]]
    suspects: list[Growth]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of a campaign; `floor` is the smallest change that counts, as a share."""

    boots: int
    floor: float
    until: Mark
    which: tuple[Which, ...]
    initcalls: bool
    reports: Path


def run(factories: Sequence[MachineFactory], wish: Wish) -> Iterator[str]:
    """Boots one image or two in turns, writes what was seen, and yields what there is to tell, line by line.

    Raises:
        Explained: an image did not come up.
    """
    seen: list[list[Observation]] = [[] for _ in factories]
    for place, number, one in in_turns(factories, wish):
        seen[place].append(one)
        yield f"{one.image}, {one.which} boot {number}: {_line(one)}"
    yield from (line for side in seen for line in table(side))
    grown = list[Growth]()
    if len(seen) > 1:
        compared = comparisons(*seen, floor=wish.floor)
        yield from (f"{which} boots: {judged}" for which, judged in compared.judged)
        grown = compared.suspects
        if wish.initcalls:
            found, said = initcalls(*factories)
            grown += found
            yield said
        yield from (f"grew most: {growth}" for growth in attribution.culprits(grown))
    yield "written: " + ", ".join(map(str, write(wish.reports, seen, grown)))


def in_turns(factories: Sequence[MachineFactory], wish: Wish) -> Iterator[tuple[int, int, Observation]]:
    """Boots each image in turns, each round in the other order; yields the place of its factory and the round too."""
    with ExitStack() as stack:
        counting = coldboots.counter(stack, factories[0])
        for number in range(1, wish.boots + 1):
            places = list(range(len(factories)))
            for place in places if number % 2 else reversed(places):
                for one in observe.boots(factories[place], f"boot-{number}-of-{place + 1}", counting, which=wish.which,
                                         until=wish.until):  # fmt: skip
                    yield place, number, one


def comparisons(before: Sequence[Observation], after: Sequence[Observation], *, floor: float) -> Comparisons:
    """Compares two images' boots; what grew is told from their first boots."""
    judged = list[tuple[Which, Comparison]]()
    for which in Which:
        old, new = ([one for one in side if one.which is which] for side in (before, after))
        for metric, values in ((budget.INSTRUCTIONS, budget.instructions), (budget.BOOT, budget.times)):
            if values(old) and values(new):
                judged.append((which, compare(metric, values(old), values(new), floor=floor)))
    first = [[one for one in side if one.which is Which.FIRST] or list(side) for side in (before, after)]
    return Comparisons(judged=judged, suspects=attribution.suspects(*first))


def initcalls(before: MachineFactory, after: MachineFactory) -> tuple[list[Growth], str]:
    """Returns the initcalls that differ, and a line that says what was run, or why it could not be."""
    try:
        old, new = (kernel_only.run(factory.image, factory.emulator) for factory in (before, after))
    except NotJudged as error:
        return [], f"initcalls not judged: {error}"
    grown = kernel_only.differences(old, new)
    return grown, (f"kernel alone, exact: {old.until_root / 1000:.3f} → {new.until_root / 1000:.3f} M instructions "
                   f"until it looks for its root; {len(grown)} of {len(new.initcalls)} initcalls differ")  # fmt: skip


def table(seen: Sequence[Observation]) -> Iterator[str]:
    """Yields the medians of each kind of boot, a line a mark, with the least and the most."""
    for which in Which:
        boots = [one for one in seen if one.which is which]
        if not boots:
            continue
        wrong = max(one.error for one in boots) * 1000
        yield f"{boots[0].image}, {len(boots)} {which} boots; marks of the guest's clock ± {wrong:.1f} ms"
        for mark in Mark:
            times = [one.marks[mark] for one in boots if mark in one.marks]
            if times and mark is not Mark.POWER_ON:
                yield f"  {mark:12} {statistics.median(times):8.3f} s ({min(times):.3f} to {max(times):.3f})" \
                      f"{_executed(boots, mark)}"  # fmt: skip


def write(reports: Path, seen: Sequence[Sequence[Observation]], grown: Sequence[Growth]) -> list[Path]:
    """Writes the observations, the chart of each image's median boot, and that of the difference; returns the files."""
    reports.mkdir(parents=True, exist_ok=True)
    files = [reports / "boots.jsonl"]
    observations.save([one for side in seen for one in side], files[0])
    for number, side in enumerate(seen, start=1):
        files.append(reports / f"boot-{number}.svg")
        files[-1].write_text(charts.boot(_median(side)), "utf-8")
    if len(seen) > 1:
        files.append(reports / "difference.svg")
        title = f"{seen[0][0].image} → {seen[1][0].image}: what differs in all boots"
        files[-1].write_text(charts.difference(grown, title), "utf-8")
    return files


def _median(seen: Sequence[Observation]) -> Observation:
    ordered = sorted(seen, key=lambda one: one.marks[END])
    return ordered[(len(ordered) - 1) // 2]


def _executed(boots: Sequence[Observation], mark: Mark) -> str:
    counts = [one.progress[mark].counts.work / 1e6 for one in boots if mark in one.progress]
    if not counts:
        return ""
    spread = statistics.pstdev(counts) / statistics.mean(counts) if statistics.mean(counts) else 0.0
    return f", {statistics.median(counts):9.1f} M instructions (spread {spread:.2%})"


def _line(one: Observation) -> str:
    told = ", ".join(f"{phase.name} {phase.duration:.2f}" for phase in one.phases)
    counted = f"; {one.progress[END].counts.work / 1e6:.1f} M instructions" if one.is_counted else ""
    return f"{one.marks[END]:.2f} s ({told}){counted}"


