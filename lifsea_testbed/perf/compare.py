"""Compares two builds by a permutation test, the size of the change, and the smallest change that counts."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lifsea_testbed.perf.metric import Better, Metric

_Floats = NDArray[np.float64]
#: Below this probability a difference is not attributed to chance (the value of Firecracker's tools/ab_test.py).
ALPHA = 0.01
#: Smaller changes do not count, however certain they are.
FLOOR = 0.01
#: The number of permutations tried where they cannot all be counted, and of resamples of a bootstrap.
RESAMPLES = 9999
#: Up to this product of the numbers of samples, all permutations are counted.
_COUNTABLE = 10_000
_CONFIDENCE = 0.95
_SEED = 20230620


class Change(enum.StrEnum):
    """The verdict on a metric between two builds."""

    REGRESSED = "regressed"
    IMPROVED = "improved"
    UNCHANGED = "unchanged"
    UNCLEAR = "too noisy to tell"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % confidence bounds."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of two sets of samples: medians in the metric's unit, the change as a share of the first median.

    `p` is the probability of such a difference by chance; `before` and `after` are numbers of samples.
    """

    metric: Metric
    change: Change
    medians: tuple[float, float]
    effect: Interval
    p: float
    before: int
    after: int
    floor: float

    def __str__(self) -> str:
        """The verdict and its numbers in a sentence."""
        unit, (old, new) = self.metric.unit, self.medians
        numbers = f"{self.metric.name} {self.change}: {old:.6g} → {new:.6g} {unit} ({self.effect.middle:+.1%}"
        if self.metric.exact:
            return f"{numbers}; exact; changes from {self.floor:.1%} count)"
        bounds = f"95 % interval {self.effect.low:+.1%} to {self.effect.high:+.1%}"
        if not np.isfinite(self.effect.high - self.effect.low):
            bounds = "too few samples for an interval"
        return (f"{numbers}, {bounds}; p = {self.p:.2g}; {self.before} and {self.after} samples; "
                f"changes from {self.floor:.1%} count)")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BudgetCheck:
    """Whether the median is certain to be within the budget: the bound on the bad side decides."""

    metric: Metric
    budget: float
    median: Interval

    @property
    def kept(self) -> bool:
        """Whether the whole interval of the median is within the budget."""
        if self.metric.better is Better.LOWER:
            return self.median.high <= self.budget
        return self.median.low >= self.budget

    def __str__(self) -> str:
        """The verdict and its numbers in a sentence."""
        within, median, unit = "within" if self.kept else "over", self.median, self.metric.unit
        return (f"{self.metric.name} {within} budget: median {median.middle:.6g} {unit}, 95 % interval "
                f"{median.low:.6g} to {median.high:.6g}; budget {self.budget:.6g}")  # fmt: skip


def compare(metric: Metric, before: Sequence[float], after: Sequence[float], *, floor: float = FLOOR) -> Comparison:
    """Compares the samples of two builds.

    The test permutes ranks, so that outliers and skew do no harm. A change counts if chance does not explain it and it
    is not below the floor. The metric is unchanged if the whole interval of the change is within the floor. Everything
    else is too noisy to tell; more samples would decide it. An exact metric has no noise: its medians decide.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    p = float(np.median(old) == np.median(new)) if metric.exact else _permuted(old, new)
    effect = _effect(old, new)
    change = _change(metric, effect, p, floor)
    return Comparison(metric=metric, change=change, medians=(float(np.median(old)), float(np.median(new))),
                      effect=effect, p=p, before=len(old), after=len(new), floor=floor)  # fmt: skip


def check(metric: Metric, values: Sequence[float], budget: float) -> BudgetCheck:
    """Checks the samples of one build against a budget."""
    return BudgetCheck(metric=metric, budget=budget, median=median(values))


def median(values: Sequence[float]) -> Interval:
    """Returns the median with its bootstrap interval (percentiles of 9999 resamples)."""
    sample = np.asarray(values, dtype=np.float64)
    middle = float(np.median(sample))
    if np.ptp(sample) == 0:
        return Interval(low=middle, middle=middle, high=middle)
    drawn = np.random.default_rng(_SEED).choice(sample, size=(RESAMPLES, len(sample)))
    low, high = np.quantile(np.median(drawn, axis=1), _tails())
    return Interval(low=float(low), middle=middle, high=float(high))


def _tails() -> tuple[float, float]:
    return (1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2


def _change(metric: Metric, effect: Interval, p: float, floor: float) -> Change:
    if p < ALPHA and abs(effect.middle) >= floor:
        worse = (effect.middle > 0) is (metric.better is Better.LOWER)
        return Change.REGRESSED if worse else Change.IMPROVED
    low, high = (effect.middle, effect.middle) if metric.exact else (effect.low, effect.high)
    return Change.UNCHANGED if -floor <= low and high <= floor else Change.UNCLEAR


def _permuted(old: _Floats, new: _Floats) -> float:
    """The probability that chance alone separates the ranks of the samples as much as this."""
    ranks = stats.rankdata(np.concatenate([old, new]))
    if np.ptp(ranks) == 0 or min(len(old), len(new)) < 2:
        return 1.0
    if len(np.unique(ranks)) == len(ranks) and len(old) * len(new) <= _COUNTABLE:
        # Without ties, all permutations can be counted instead of sampled.
        return float(stats.mannwhitneyu(old, new, method="exact").pvalue)
    return _tried(ranks[: len(old)], ranks[len(old) :])


def _tried(old: _Floats, new: _Floats) -> float:
    def distance(a: _Floats, b: _Floats, axis: int = -1) -> _Floats:
        return np.asarray(a.mean(axis=axis) - b.mean(axis=axis))

    tried = stats.permutation_test((old, new), distance, vectorized=True, n_resamples=RESAMPLES,
                                   rng=np.random.default_rng(_SEED))  # fmt: skip
    return float(tried.pvalue)


def _effect(old: _Floats, new: _Floats) -> Interval:
    """The shift of Hodges and Lehmann, as a share of the old median, with its interval by Mann and Whitney's test.

    With too few samples the interval is infinite.
    """
    shifts = _shares(np.sort(np.subtract.outer(new, old), axis=None), abs(float(np.median(old))))
    spread = np.sqrt(len(old) * len(new) * (len(old) + len(new) + 1) / 12)
    rank = int(np.floor(len(shifts) / 2 - stats.norm.ppf(_tails()[1]) * spread))
    low, high = (shifts[rank - 1], shifts[-rank]) if rank >= 1 else (-np.inf, np.inf)
    return Interval(low=float(low), middle=float(np.median(shifts)), high=float(high))


def _shares(shifts: _Floats, scale: float) -> _Floats:
    """The shifts as shares of the scale; infinite if the scale is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(shifts / np.float64(scale), nan=0.0, posinf=np.inf, neginf=-np.inf)
