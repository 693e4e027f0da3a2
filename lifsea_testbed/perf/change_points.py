"""Change points: where in its history a metric stepped to another level, by Apache Otava."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from otava.analysis import compute_change_points
from scipy import stats

#: Smaller steps do not count. A history offers chance more places than a comparison does, so this floor is higher.
FLOOR = 0.02
#: Otava's own default for a step that chance does not explain.
_ALPHA = 0.001
#: The significance of a step whose place was selected for being unlikely. Found by trial: of 200 level
#: histories of 300 builds, none at 1 % noise and 4 at 3 % have a step; a real one is found at its third build.
_CONFIRM = 0.0001
#: The window of builds, and the fewest builds of a series that can have a step.
_WINDOW = 50
_LEAST = 6


@dataclass(frozen=True, kw_only=True)
class Step:
    """A change point: the index of the first value on the new level, and the medians on either side, up to the next."""

    index: int
    before: float
    after: float
    p: float

    @property
    def share(self) -> float:
        """The change as a share of the level before; infinite from nothing, 0 where there is none."""
        if self.after == self.before:
            return 0.0
        if self.before == 0:
            return float(np.copysign(np.inf, self.after))
        return (self.after - self.before) / abs(self.before)


def steps(values: Sequence[float], *, floor: float = FLOOR) -> list[Step]:
    """Returns the change points of a series, in order; changes below the floor are not steps.

    The series is one value a build, in order of time. Fewer than six values have no change points.
    """
    if len(values) < _LEAST:
        return []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # scipy warns of precision where neighbours are equal, as exact metrics are
        # A list, not an array: Otava 0.8.0 forgets to cut its window out of an array.
        found, _ = compute_change_points(list(map(float, values)), window_len=_WINDOW, max_pvalue=_ALPHA,
                                         min_magnitude=floor)  # fmt: skip
    return _confirmed(list(map(float, values)), [int(point.index) for point in found], floor)


def exact_steps(values: Sequence[float]) -> list[Step]:
    """Returns every index whose value differs from the one before; in an exact metric each is a change."""
    return [Step(index=index, before=before, after=after, p=0.0)
            for index, (before, after) in enumerate(itertools.pairwise(values), start=1) if before != after]


def _confirmed(values: list[float], places: list[int], floor: float) -> list[Step]:
    """Drops, weakest first, every point that is not a step between the whole levels on either side.

    Otava 0.8.0 judges a point by a neighbour that it drops later; a few outliers then look like a step.
    """
    while places:
        bounds = [0, *places, len(values)]
        found = [_step(values, *three) for three in zip(bounds, bounds[1:], bounds[2:], strict=False)]
        weakest = min(found, key=lambda step: (step.p < _CONFIRM, abs(step.share)))
        if weakest.p < _CONFIRM and abs(weakest.share) >= floor:
            return found
        places = [place for place in places if place != weakest.index]
    return []


def _step(values: list[float], start: int, place: int, end: int) -> Step:
    before, after = values[start:place], values[place:end]
    p = float(stats.mannwhitneyu(before, after).pvalue)
    return Step(index=place, before=float(np.median(before)), after=float(np.median(after)), p=p)
