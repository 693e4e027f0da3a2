"""Judges the figures of one run: each metric against the last release and against its budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.perf import compare as judges
from lifsea_testbed.perf.compare import BudgetCheck, Change, Comparison
from lifsea_testbed.perf.history import History
from lifsea_testbed.perf.metric import Metric, Sample


@dataclass(frozen=True, kw_only=True)
class MetricFinding:
    """The verdicts on one metric; `comparison` is None if the history has no release to compare with."""

    metric: Metric
    comparison: Comparison | None
    budget: BudgetCheck | None
    remark: str = ""

    @property
    def lines(self) -> list[str]:
        """The verdicts, a sentence each."""
        first = str(self.comparison) if self.comparison else f"{self.metric.name} not compared"
        return [first + (f" ({self.remark})" if self.remark else ""), *([str(self.budget)] if self.budget else [])]

    @property
    def failures(self) -> list[str]:
        """The sentences that fail a gate."""
        failed = [self.comparison] if self.comparison and self.comparison.change is Change.REGRESSED else []
        over = [self.budget] if self.budget and not self.budget.kept else []
        return [str(each) for each in (*failed, *over)]


@dataclass(frozen=True, kw_only=True)
class MetricFindings:
    """The verdicts on all metrics of a run."""

    findings: list[MetricFinding]

    @property
    def lines(self) -> list[str]:
        """Every verdict, a sentence each."""
        return [line for finding in self.findings for line in finding.lines]

    @property
    def failures(self) -> list[str]:
        """The sentences that fail a gate: regressions, and budgets that are not certain to be kept."""
        return [line for finding in self.findings for line in finding.failures]


def judge(history: History, samples: Iterable[Sample], *, floor: float = judges.FLOOR) -> MetricFindings:
    """Judges the samples of one run, metric by metric, against the last other release in the history."""
    by_metric: dict[Metric, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(sample.metric, []).append(sample)
    return MetricFindings(findings=[_finding(history, metric, taken, floor) for metric, taken in by_metric.items()])


def _finding(history: History, metric: Metric, samples: list[Sample], floor: float) -> MetricFinding:
    build, values, budget = samples[0].build, [sample.value for sample in samples], samples[-1].budget
    baseline = history.baseline(build, metric)
    before = [sample.value for sample in baseline]
    return MetricFinding(
        metric=metric,
        comparison=judges.compare(metric, before, values, floor=floor) if before else None,
        budget=judges.check(metric, values, budget) if budget is not None else None,
        remark=f"against {baseline[-1].build.label}" if baseline else "the history has no release in this setting",
    )
