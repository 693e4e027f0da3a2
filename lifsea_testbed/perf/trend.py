"""Trends: a metric in one setting over all its builds, one point a build."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lifsea_testbed.perf import change_points, compare
from lifsea_testbed.perf.change_points import Step
from lifsea_testbed.perf.compare import Comparison
from lifsea_testbed.perf.metric import Build, Metric, Sample, Setting

#: The probability that a median is outside its interval.
_OUTSIDE = 0.05


@dataclass(frozen=True, kw_only=True)
class Point:
    """The samples of a metric in one build, by test, and their statistics, all in the metric's unit.

    `low` and `high` bound the median with at least 95 % confidence for any distribution if there are six samples or
    more; with fewer, they are the least and the greatest. `place` is the first sample's number within the run.
    """

    build: Build
    samples: dict[str, list[float]]
    count: int
    least: float
    low: float
    median: float
    high: float
    most: float
    budget: float | None
    place: int


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A series of points in order of time, its change points, and the newest build against the last release."""

    metric: Metric
    setting: Setting
    points: list[Point]
    steps: list[Step]
    comparison: Comparison | None


class SampleSource(Protocol):
    """The queries to a history that trends are made of."""

    def metrics(self) -> list[Metric]:
        """Returns every definition of every metric."""

    def samples(self, metric: str | None = None) -> Iterator[Sample]:
        """Yields the samples of one metric in order of time."""

    def baseline(self, build: Build, metric: Metric) -> list[Sample]:
        """Returns the samples of the last other release."""


def trends(source: SampleSource, *, floor: float = compare.FLOOR) -> Iterator[Trend]:
    """Yields every trend of a history: by metric, then by setting."""
    for metric in source.metrics():
        by_setting: dict[Setting, list[Point]] = {}
        for build, samples in itertools.groupby(source.samples(metric.id), key=lambda sample: sample.build):
            by_setting.setdefault(build.setting, []).append(point(build, list(samples)))
        for setting, points in by_setting.items():
            yield _trend(source, metric, setting, points, floor)


def point(build: Build, samples: Sequence[Sample]) -> Point:
    """Returns the statistics of the samples of one metric in one build."""
    values = sorted(sample.value for sample in samples)
    by_test: dict[str, list[float]] = {}
    for sample in samples:
        by_test.setdefault(sample.test, []).append(sample.value)
    rank = _rank(len(values))
    return Point(build=build, samples=by_test, count=len(values), least=values[0], low=values[rank],
                 median=statistics.median(values), high=values[-1 - rank], most=values[-1],
                 budget=samples[-1].budget, place=min(sample.number for sample in samples))  # fmt: skip


@functools.cache
def _rank(count: int) -> int:
    """How many samples can be dropped at either end so that the rest still covers the median (sign test)."""
    below, rank = 0.0, 0
    while rank < count // 2 and 2 * (below := below + math.comb(count, rank) / 2**count) <= _OUTSIDE:
        rank += 1
    return max(rank - 1, 0)


def _trend(source: SampleSource, metric: Metric, setting: Setting, points: list[Point], floor: float) -> Trend:
    newest = points[-1]
    before = [sample.value for sample in source.baseline(newest.build, metric)]
    after = [value for values in newest.samples.values() for value in values]
    return Trend(
        metric=metric, setting=setting, points=points,
        steps=(change_points.exact_steps if metric.exact else change_points.steps)([each.median for each in points]),
        comparison=compare.compare(metric, before, after, floor=floor) if before else None,
    )  # fmt: skip
