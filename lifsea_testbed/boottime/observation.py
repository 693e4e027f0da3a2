"""The observation of one boot, stored and judged later; the alignment of the guest's clock with the host's."""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from lifsea_testbed.boottime.marks import END, BootMark, Phase, phases
from lifsea_testbed.guest.boot import UnitTimes
from lifsea_testbed.qemu.instruction_counter import CountedProgram, Counts
from lifsea_testbed.support.lines import split_lines

#: Instructions of no program: firmware, boot loader, the kernel until its first program, forked children.
NAMELESS = "(no program)"


class BootNumber(enum.StrEnum):
    """Which boot of a disk it is: the first one does work that later ones do not, so the two are never compared."""

    FIRST = "first"
    LATER = "later"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The instructions until a moment (seconds after power-on), and how long all processors had halted (seconds)."""

    at: float
    counts: Counts
    idle: float


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One boot: its marks (seconds after power-on), and the instructions executed until each, where they were counted.

    `error` bounds the error of the marks that come from the guest's clock (seconds); `programs` holds the instructions
    of each program by name, all its starts together; `curve` is the progress, in some hundred points.
    """

    image: str
    which: BootNumber
    error: float
    marks: dict[BootMark, float]
    progress: dict[BootMark, Progress] = field(default_factory=dict)
    curve: list[Progress] = field(default_factory=list)
    units: list[UnitTimes] = field(default_factory=list)
    programs: dict[str, int] = field(default_factory=dict)

    @property
    def phases(self) -> list[Phase]:
        """The phases until the mark that an advertised boot time is compared with."""
        return phases(self.marks)

    @property
    def is_counted(self) -> bool:
        """Whether instructions were counted."""
        return END in self.progress

    def instructions(self) -> dict[str, int]:
        """Returns the instructions of each phase; they add up to those of the whole boot."""
        counted, before = dict[str, int](), 0
        for phase in self.phases:
            end = next(mark for mark in self.progress if self.marks[mark] == phase.end)
            counted[phase.name] = self.progress[end].counts.work - before
            before = self.progress[end].counts.work
        return counted

    def fields(self) -> dict[str, Any]:
        """Returns the observation as JSON values; `from_fields` reads them."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Reads the values that `fields` returned."""
        return cls(**{
            **fields, "which": BootNumber(fields["which"]),
            "marks": {BootMark(mark): at for mark, at in fields["marks"].items()},
            "progress": {BootMark(mark): _progress(made) for mark, made in fields["progress"].items()},
            "curve": [_progress(made) for made in fields["curve"]],
            "units": [UnitTimes(**unit) for unit in fields["units"]],
        })  # fmt: skip


def by_name(programs: Iterable[CountedProgram]) -> dict[str, int]:
    """Returns the instructions of each program, all its starts together, less those that only waited."""
    total: Counter[str] = Counter()
    for program in programs:
        total[program.name or NAMELESS] += program.counts.work
    return dict(total)


def save(observations: Iterable[Observation], path: Path) -> None:
    """Writes the observations as JSON lines."""
    path.write_text("".join(map(line, observations)), "utf-8")


def line(seen: Observation) -> str:
    """Returns an observation as a line of JSON."""
    return json.dumps(seen.fields()) + "\n"


def load(path: Path) -> list[Observation]:
    """Reads a file that `save` wrote."""
    return [Observation.from_fields(json.loads(line)) for line in split_lines(path.read_text("utf-8"))]


def _progress(fields: dict[str, Any]) -> Progress:
    return Progress(at=fields["at"], counts=Counts(**fields["counts"]), idle=fields["idle"])


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The host's clock before a request, the guest's clock in the answer, and the host's afterwards (seconds)."""

    before: float
    guest: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The offset of the host's monotonic clock from the guest's, and its greatest error either way (seconds)."""

    offset: float
    error: float

    def host(self, guest: float) -> float:
        """Converts a time of the guest's clock to the host's."""
        return guest + self.offset


def align(exchanges: Iterable[Exchange]) -> Alignment:
    """Returns the alignment that all exchanges allow.

    In each of them the guest read its clock between two readings of the host's, so the offset lies between `before -
    guest` and `after - guest`; all together leave the interval from the largest of the former to the smallest of the
    latter. If the clocks drift meanwhile that interval may be empty: then the narrowest exchange decides.
    """
    all_of_them = list(exchanges)
    low = max(each.before - each.guest for each in all_of_them)
    high = min(each.after - each.guest for each in all_of_them)
    if low > high:
        best = min(all_of_them, key=lambda each: each.after - each.before)
        low, high = best.before - best.guest, best.after - best.guest
    return Alignment(offset=(low + high) / 2, error=(high - low) / 2)
