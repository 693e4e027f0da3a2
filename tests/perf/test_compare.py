"""Comparisons and change points: known shifts are found, and noise is not reported as a shift."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from lifsea_testbed.perf import compare
from lifsea_testbed.perf.change_points import Step, exact_steps, steps
from lifsea_testbed.perf.compare import Change
from lifsea_testbed.perf.metric import Better, Metric
from tests.support.perf_cases import BOOT, shifting

SPEED = Metric(name="speed", unit="MB/s", better=Better.HIGHER)
COUNT = Metric(name="packages", unit="packages", better=Better.LOWER, exact=True)


def drawn(seed: int, count: int, level: float, noise: float) -> list[float]:
    return [float(value) for value in level * (1 + np.random.default_rng(seed).normal(0, noise, count))]


@pytest.mark.parametrize(("metric", "factor", "change"), [
    (BOOT, 1.05, Change.REGRESSED), (BOOT, 0.95, Change.IMPROVED), (BOOT, 1.0, Change.UNCHANGED),
    (SPEED, 1.05, Change.IMPROVED), (SPEED, 0.95, Change.REGRESSED),
])  # fmt: skip
def test_what_changed_is_told_by_the_direction_that_is_better(metric: Metric, factor: float, change: Change) -> None:
    found = compare.compare(metric, drawn(1, 10, 2.0, 0.004), drawn(2, 10, 2.0 * factor, 0.004))
    assert found.change is change


@pytest.mark.parametrize(("before", "after", "change"), [
    ([203], [203], Change.UNCHANGED), ([203], [221], Change.REGRESSED), ([203], [190], Change.IMPROVED),
    ([0], [1], Change.REGRESSED), ([0], [0], Change.UNCHANGED),
])  # fmt: skip
def test_an_exact_metric_needs_one_sample(before: list[float], after: list[float], change: Change) -> None:
    assert compare.compare(COUNT, before, after).change is change


def test_few_or_wild_samples_decide_nothing() -> None:
    assert compare.compare(BOOT, [2.0], [2.5]).change is Change.UNCLEAR
    assert compare.compare(BOOT, [2.0, 2.01, 2.02], [2.1, 2.11, 2.12]).change is Change.UNCLEAR
    assert compare.compare(BOOT, drawn(1, 10, 2.0, 0.2), drawn(2, 10, 2.0, 0.2)).change is Change.UNCLEAR


def test_a_certain_change_below_the_floor_does_not_count() -> None:
    found = compare.compare(BOOT, drawn(1, 10, 2.0, 0.001), drawn(2, 10, 2.01, 0.001), floor=0.02)
    assert (found.change, found.p < compare.ALPHA) == (Change.UNCHANGED, True)


def test_one_outlier_hides_nothing() -> None:
    slower = [*drawn(2, 9, 2.1, 0.005), 9.0]
    assert compare.compare(BOOT, [*drawn(1, 9, 2.0, 0.005), 0.5], slower).change is Change.REGRESSED


def test_two_percent_are_found_with_five_samples_a_side() -> None:
    """At a spread of 0.4 %: in at least 95 of 100 trials."""
    found = [compare.compare(BOOT, drawn(2 * n, 5, 2.0, 0.004), drawn(2 * n + 1, 5, 2.04, 0.004)) for n in range(100)]
    assert sum(each.change is Change.REGRESSED for each in found) >= 95


@pytest.mark.parametrize(("count", "noise", "trials"), [(5, 0.01, 200), (5, 0.15, 200), (10, 0.15, 200)])
def test_equal_builds_give_no_alarm(count: int, noise: float, trials: int) -> None:
    """At most one comparison in a hundred of a build with itself reports a regression."""
    pairs = [(drawn(2 * n, count, 2.0, noise), drawn(2 * n + 1, count, 2.0, noise)) for n in range(trials)]
    alarms = sum(compare.compare(BOOT, before, after).change is Change.REGRESSED for before, after in pairs)
    assert alarms <= trials / 100


def test_the_verdict_comes_with_its_numbers() -> None:
    found = compare.compare(BOOT, [2.0, 2.01, 2.02, 1.99, 2.0], [2.2, 2.21, 2.22, 2.19, 2.2])
    assert str(found) == ("boot regressed: 2 → 2.2 s (+10.0%, 95 % interval +9.0% to +11.0%; p = 0.0079; "
                          "5 and 5 samples; changes from 1.0% count)")  # fmt: skip


@pytest.mark.parametrize(("metric", "budget", "kept"), [
    (BOOT, 2.1, True), (BOOT, 2.001, False), (BOOT, 1.5, False), (SPEED, 1.9, True), (SPEED, 1.999, False),
])  # fmt: skip
def test_a_budget_is_kept_when_the_bad_end_of_the_interval_keeps_it(metric: Metric, budget: float, kept: bool) -> None:
    assert compare.check(metric, drawn(3, 10, 2.0, 0.01), budget).kept is kept


def test_the_interval_of_a_median_holds_it_in_nine_cases_of_ten() -> None:
    """A bootstrap of ten samples is known to be somewhat short of its nominal 95 %."""
    intervals = [compare.median(drawn(n, 10, 2.0, 0.05)) for n in range(100)]
    assert sum(interval.low <= 2.0 <= interval.high for interval in intervals) >= 90


def test_known_shifts_are_found_in_a_history() -> None:
    """Over 40 histories of 300 builds and four shifts each: precision and recall of 95 %, to within two builds."""
    hits = found = wanted = 0
    for seed in range(40):
        values, places = shifting(seed)
        reported = [step.index for step in steps(values)]
        hits += sum(any(abs(place - index) <= 2 for index in reported) for place in places)
        found, wanted = found + len(reported), wanted + len(places)
    assert hits / found >= 0.95 and hits / wanted >= 0.95, (hits, found, wanted)


def test_a_level_history_has_no_change_points() -> None:
    """In 60 histories of 300 builds at 1 % noise, not one."""
    assert [seed for seed in range(60) if steps(drawn(seed, 300, 2.0, 0.01))] == []


def test_the_newest_shift_is_found_at_its_third_build() -> None:
    """Five percent, at 1 % noise, after 100 builds: in at least 18 of 20 histories."""
    found = [steps([*drawn(seed, 100, 2.0, 0.01), *drawn(seed + 99, 3, 2.1, 0.01)]) for seed in range(20)]
    assert sum(bool(each) and each[-1].index == 100 for each in found) >= 18


def test_every_change_of_an_exact_metric_is_a_step() -> None:
    found = exact_steps([200.0, 200.0, 203.0, 203.0, 202.0])
    assert [(step.index, step.before, step.after) for step in found] == [(2, 200.0, 203.0), (4, 203.0, 202.0)]


def test_steps_are_found_where_neighbours_are_equal() -> None:
    assert [step.index for step in steps([200.0] * 20 + [210.0] * 20)] == [20]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0], [0.0] * 50])
def test_short_and_empty_histories_have_no_change_points(values: list[float]) -> None:
    assert steps(values) == []


@pytest.mark.parametrize("seed", range(6))
def test_a_series_that_is_mostly_zero_has_no_step_from_zero_to_zero(seed: int) -> None:
    """Restarts, retries: now and then there is one, in the second half more often; the median stays."""
    random = Random(seed)
    values = [float(random.random() < share) for share in (0.02,) * 60 + (0.4,) * 60]
    assert [step for step in steps(values) if step.before == step.after] == []
    assert Step(index=60, before=0.0, after=0.0, p=0.0).share == 0.0
    assert Step(index=60, before=0.0, after=1.0, p=0.0).share == float("inf")
