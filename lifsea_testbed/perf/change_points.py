"""Change points: where in its history a metric stepped to another level, by Apache Otava."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from otava.analysis import compute_change_points
from scipy import stats

#: Smaller steps do not count. Chance has more places in a history than in a comparison: so this is more than there.
FLOOR = 0.02
#: Otava's own default for a step that chance does not explain.
_ALPHA = 0.001
#: How unlikely a step must be, seeing that its place was chosen for being unlikely. Found by trial: of 200 level
#: histories of 300 builds, none at 1 % noise and 4 at 3 % have a step; a real one is found at its third build.
_CONFIRM = 0.0001
#: Builds that are looked at together; a step needs some on either side.
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
        """The change as a share of the level before; infinite from nothing."""
        if self.before == 0:
            return float(np.copysign(np.inf, self.after))
        return (self.after - self.before) / abs(self.before)


def steps(values: Sequence[float], *, floor: float = FLOOR) -> list[Step]:
    """Returns the change points of a series, in order; changes below the floor are none.

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
    """Returns every place where the value differs from the one before: of an exact metric, each is a change."""
    return [Step(index=index, before=before, after=after, p=0.0)
            for index, (before, after) in enumerate(itertools.pairwise(values), start=1) if before != after]


def _confirmed(values: list[float], places: list[int], floor: float) -> list[Step]:
    """Drops, weakest first, what is no step between whole neighbouring levels.

    Otava 0.8.0 judges a point by one of its neighbours that it has dropped since; a few outliers look like a step then.
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
