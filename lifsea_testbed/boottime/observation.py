"""What was seen of one boot, as it is kept in a file and judged later."""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from lifsea_testbed.boottime.marks import END, Mark, Phase, phases
from lifsea_testbed.guest.boot import UnitTimes
from lifsea_testbed.qemu.instruction_counter import CountedProgram, Counts

#: What has no program of its own: firmware, boot loader, the kernel until its first program, forked children.
NAMELESS = "(no program)"


class Which(enum.StrEnum):
    """The first boot of a disk does work that later ones do not: the two are never compared."""

    FIRST = "first"
    LATER = "later"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What was executed until a moment (seconds after power-on), and how long all processors had halted (seconds)."""

    at: float
    counts: Counts
    idle: float


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One boot: its marks (seconds after power-on), and what was executed until each, where that was counted.

    `error` is how wrong the marks may be that are of the guest's clock (seconds); `programs` has the instructions of
    each program by name, all its starts together; `curve` is the progress, some hundred points of it.
    """

    image: str
    which: Which
    error: float
    marks: dict[Mark, float]
    progress: dict[Mark, Progress] = field(default_factory=dict)
    curve: list[Progress] = field(default_factory=list)
    units: list[UnitTimes] = field(default_factory=list)
    programs: dict[str, int] = field(default_factory=dict)

    @property
    def phases(self) -> list[Phase]:
        """The phases until the mark that an advertised boot time is held against."""
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
        """Returns what goes through JSON and comes back by `from_fields`."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Reads what `fields` made."""
        return cls(**{
            **fields, "which": Which(fields["which"]),
            "marks": {Mark(mark): at for mark, at in fields["marks"].items()},
            "progress": {Mark(mark): _progress(made) for mark, made in fields["progress"].items()},
            "curve": [_progress(made) for made in fields["curve"]],
            "units": [UnitTimes(**unit) for unit in fields["units"]],
        })  # fmt: skip


def by_name(programs: Iterable[CountedProgram]) -> dict[str, int]:
    """Returns the instructions of each program, all its starts together, without what it executed while waiting."""
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
    """Reads what `save` wrote."""
    return [Observation.from_fields(json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def _progress(fields: dict[str, Any]) -> Progress:
    return Progress(at=fields["at"], counts=Counts(**fields["counts"]), idle=fields["idle"])
