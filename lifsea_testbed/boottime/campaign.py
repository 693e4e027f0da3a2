"""Campaigns of cold boots: of one image or two in turns (`boot-time`), or within the suites (`cold_boots`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifsea_testbed.boottime import attribution, budget, charts, kernel_only, observe
from lifsea_testbed.boottime import observation as observations
from lifsea_testbed.boottime.attribution import Growth
from lifsea_testbed.boottime.marks import END, BootMark
from lifsea_testbed.boottime.observation import BootNumber, Observation
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.perf.metric import Metric
from lifsea_testbed.profiles.profile import BootSection
from lifsea_testbed.qemu.accelerator import Accelerator
from lifsea_testbed.qemu.instruction_counter import Counter

if TYPE_CHECKING:
    from lifsea_testbed.perf.compare import BudgetCheck, Comparison

#: Marks that are figures of their own, beside the phases of the boot.
_FURTHER_MARKS = (BootMark.TARGET, BootMark.ASSISTANT, BootMark.CONTAINERD, BootMark.FINISHED, BootMark.QUIET,
                  BootMark.KUBELET)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BootTimeOptions:
    """The options of `boot-time`: `boots` of each image; `floor` is the smallest change that counts, as a share."""

    boots: int
    floor: float
    until: BootMark
    which: tuple[BootNumber, ...]
    initcalls: bool
    reports: Path


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Two images compared: a verdict for each metric of first and of later boots, and the costs that differ."""

    judged: list[tuple[BootNumber, Comparison]]
    suspects: list[Growth]


@dataclass(frozen=True, kw_only=True)
class ColdBoots:
    """The cold boots of one image, and the accelerator that they ran on."""

    seen: list[Observation]
    accelerator: Accelerator

    def report(self, measure: Callable[..., None]) -> None:
        """Passes each figure of each boot to `measure`: whole boot, phases and further marks; times, instructions."""
        for one in self.seen:
            for name, value, unit, definition in _figures(one):
                measure(name, value, unit=unit, better="lower", definition=definition)

    def held_to(self, promised: BootSection) -> BudgetCheck:
        """Returns whether the first boot is certain to be as quick as advertised.

        Raises:
            NotJudged: this host cannot judge it.
        """
        return budget.judge(self.seen, promised, self.accelerator)


def cold_boots(factory: MachineFactory, count: int) -> ColdBoots:
    """Boots `count` new disks of the image.

    Where no instructions are counted it also waits for the kubelet, up to the first boot on which that is not healthy
    in time: a node that has joined no cluster need not have one.

    Raises:
        Explained: a machine did not boot.
    """
    with ExitStack() as stack:
        counting = counter(stack, factory)
        until, seen = BootMark.FINISHED if counting else BootMark.KUBELET, list[Observation]()
        for number in range(1, count + 1):
            seen += observe.boots(factory, f"cold-boot-{number}", counting, until=until)
            until = until if until in seen[-1].marks else BootMark.FINISHED
    return ColdBoots(seen=seen, accelerator=factory.accelerator)


def run(factories: Sequence[MachineFactory], options: BootTimeOptions) -> Iterator[str]:
    """Boots one image or two in turns, writes the observations, and yields the report line by line.

    Raises:
        Explained: an image did not boot.
        ImportError: there are two images, and scipy is not installed; nothing was booted.
    """
    if len(factories) > 1:
        from lifsea_testbed.perf import compare  # noqa: F401 -- its absence is found before the boots
    seen: list[list[Observation]] = [[] for _ in factories]
    for place, number, one in in_turns(factories, options):
        seen[place].append(one)
        yield f"{one.image}, {one.which} boot {number}: {_line(one)}"
    yield from (line for side in seen for line in table(side))
    grown = list[Growth]()
    if len(seen) > 1:
        compared = comparisons(*seen, floor=options.floor)
        yield from (f"{which} boots: {judged}" for which, judged in compared.judged)
        grown = compared.suspects
        if options.initcalls:
            found, summary = initcalls(*factories)
            grown += found
            yield summary
        yield from (f"grew most: {growth}" for growth in attribution.culprits(grown))
    yield "written: " + ", ".join(map(str, write(options.reports, seen, grown)))


def in_turns(factories: Sequence[MachineFactory], options: BootTimeOptions) -> Iterator[tuple[int, int, Observation]]:
    """Boots the images in turns, each round in the reverse order; yields the image's index, the round, the boot."""
    with ExitStack() as stack:
        counting = counter(stack, factories[0])
        for number in range(1, options.boots + 1):
            places = list(range(len(factories)))
            for place in places if number % 2 else reversed(places):
                for one in observe.boots(factories[place], f"boot-{number}-of-{place + 1}", counting,
                                         which=options.which, until=options.until):  # fmt: skip
                    yield place, number, one


def counter(stack: ExitStack, factory: MachineFactory) -> Counter | None:
    """Returns the instruction counter, or nothing where none works: then times are measured alone."""
    try:
        return stack.enter_context(observe.counting(factory))
    except NotJudged as error:
        factory.announce(f"instructions are not counted: {error}")
        return None


def comparisons(before: Sequence[Observation], after: Sequence[Observation], *, floor: float) -> Comparisons:
    """Compares two images' boots; the costs that differ are those of the first boots."""
    from lifsea_testbed.perf.compare import compare

    judged = list[tuple[BootNumber, "Comparison"]]()
    for which in BootNumber:
        old, new = ([one for one in side if one.which is which] for side in (before, after))
        for metric, values in ((budget.INSTRUCTIONS, budget.instructions), (budget.BOOT, budget.times)):
            if values(old) and values(new):
                judged.append((which, compare(metric, values(old), values(new), floor=floor)))
    first = [[one for one in side if one.which is BootNumber.FIRST] or list(side) for side in (before, after)]
    return Comparisons(judged=judged, suspects=attribution.suspects(*first))


def initcalls(before: MachineFactory, after: MachineFactory) -> tuple[list[Growth], str]:
    """Returns the initcalls that differ, and a line that sums up the two runs, or the reason why there were none."""
    try:
        old, new = (kernel_only.run(factory.image, factory.emulator) for factory in (before, after))
    except NotJudged as error:
        return [], f"initcalls not judged: {error}"
    grown = kernel_only.differences(old, new)
    return grown, (f"kernel alone, exact: {old.until_root / 1000:.3f} → {new.until_root / 1000:.3f} M instructions "
                   f"until it looks for its root; {len(grown)} of {len(new.initcalls)} initcalls differ")  # fmt: skip


def table(seen: Sequence[Observation]) -> Iterator[str]:
    """Yields the median of each mark, a line each, with minimum and maximum; first and later boots apart."""
    for which in BootNumber:
        boots = [one for one in seen if one.which is which]
        if not boots:
            continue
        wrong = max(one.error for one in boots) * 1000
        yield f"{boots[0].image}, {len(boots)} {which} boots; marks of the guest's clock ± {wrong:.1f} ms"
        for mark in BootMark:
            times = [one.marks[mark] for one in boots if mark in one.marks]
            if times and mark is not BootMark.POWER_ON:
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


def _executed(boots: Sequence[Observation], mark: BootMark) -> str:
    counts = [one.progress[mark].counts.work / 1e6 for one in boots if mark in one.progress]
    if not counts:
        return ""
    spread = statistics.pstdev(counts) / statistics.mean(counts) if statistics.mean(counts) else 0.0
    return f", {statistics.median(counts):9.1f} M instructions (spread {spread:.2%})"


def _line(one: Observation) -> str:
    phases = ", ".join(f"{phase.name} {phase.duration:.2f}" for phase in one.phases)
    counted = f"; {one.progress[END].counts.work / 1e6:.1f} M instructions" if one.is_counted else ""
    return f"{one.marks[END]:.2f} s ({phases}){counted}"


def _figures(one: Observation) -> Iterator[tuple[str, Any, str, str]]:
    """Yields name, value, unit and definition of each figure of a boot."""
    boot = f"{one.which} boot"
    prefix = "" if one.which is BootNumber.FIRST else "later-"
    yield f"{prefix}boot", one.marks[END], "s", _definition(budget.BOOT, one)
    for phase in one.phases:
        yield f"{prefix}boot/{phase.name}", phase.duration, "s", f"phase of the {boot}, by the host's clock"
    for mark in _FURTHER_MARKS:
        if mark in one.marks:
            yield f"{prefix}boot-to-{mark}", one.marks[mark], "s", f"from power-on until {mark}, {boot}"
    if one.is_counted:
        yield f"{prefix}boot-instructions", one.progress[END].counts.work, "instructions", \
            _definition(budget.INSTRUCTIONS, one)  # fmt: skip
        for name, count in one.instructions().items():
            yield f"{prefix}boot-instructions/{name}", count, "instructions", \
                f"phase of the {boot}, less waiting and ticks"  # fmt: skip


def _definition(metric: Metric, one: Observation) -> str:
    return metric.definition.replace("first boot", f"{one.which} boot")
