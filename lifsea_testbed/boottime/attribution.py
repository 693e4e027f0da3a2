"""Attribution: which phase, program, unit or initcall of a boot grew between two builds."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lifsea_testbed.boottime.observation import Observation


class GrowthKind(enum.StrEnum):
    """The parts of a boot whose costs are compared."""

    PHASE = "phase"
    PROGRAM = "program"
    UNIT = "unit"
    INITCALL = "initcall"


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The change of one cost: medians before and after, in `unit`; `share` is of the whole boot before."""

    kind: GrowthKind
    name: str
    before: float
    after: float
    share: float
    unit: str

    @property
    def by(self) -> float:
        """The difference; negative if it costs less."""
        return self.after - self.before

    def __str__(self) -> str:
        """The finding in a line."""
        new = ", new" if self.before == 0 else ""
        return f"{self.kind} {self.name}: {_shown(self.before, self.unit)} → {_shown(self.after, self.unit)} " \
               f"({self.share:+.2%} of the boot{new})"  # fmt: skip


def suspects(before: Sequence[Observation], after: Sequence[Observation]) -> list[Growth]:
    """Returns the costs that certainly grew or shrank, each kind with the largest growth first.

    Certain is a cost whose samples do not overlap: the least of one side lies above the most of the other. Phases and
    programs are compared by instructions, units by systemd's accounting; processor time is the host's, and noisier.
    """
    found = list[Growth]()
    for kind, unit, costs in _VIEWS:
        old, new = [costs(seen) for seen in before], [costs(seen) for seen in after]
        found += apart(kind, unit, old, new)
    return found


def apart(kind: GrowthKind, unit: str, before: Sequence[Mapping[str, float]],
          after: Sequence[Mapping[str, float]]) -> list[Growth]:
    """Returns the names whose costs before and after do not overlap, the largest growth first."""
    if not before or not after:
        return []
    whole = statistics.median(sum(costs.values()) for costs in before)
    found = list[Growth]()
    for name in {name for costs in (*before, *after) for name in costs}:
        old, new = ([costs.get(name, 0.0) for costs in side] for side in (before, after))
        if min(new) > max(old) or max(new) < min(old):
            middle = statistics.median(old), statistics.median(new)
            found.append(Growth(kind=kind, name=name, before=middle[0], after=middle[1], unit=unit,
                                share=(middle[1] - middle[0]) / whole if whole else 0.0))  # fmt: skip
    return sorted(found, key=lambda growth: -growth.by)


def culprits(found: Iterable[Growth]) -> list[Growth]:
    """Returns the one of each kind that grew most."""
    first: dict[GrowthKind, Growth] = {}
    for growth in found:
        if growth.by > 0:
            first.setdefault(growth.kind, growth)
    return list(first.values())


def _phases(seen: Observation) -> Mapping[str, float]:
    return {name: float(count) for name, count in seen.instructions().items()} if seen.is_counted else {}


def _programs(seen: Observation) -> Mapping[str, float]:
    return {name: float(count) for name, count in seen.programs.items()}


def _units(seen: Observation) -> Mapping[str, float]:
    return {unit.name: unit.processor for unit in seen.units if unit.name.endswith(".service")}


_VIEWS: tuple[tuple[GrowthKind, str, Callable[[Observation], Mapping[str, float]]], ...] = (
    (GrowthKind.PHASE, "instructions", _phases),
    (GrowthKind.PROGRAM, "instructions", _programs),
    (GrowthKind.UNIT, "s", _units),
)


def _shown(value: float, unit: str) -> str:
    return f"{value / 1e6:.1f} M instructions" if unit == "instructions" else f"{value:.3f} {unit}"
