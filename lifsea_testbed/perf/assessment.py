"""What the figures of one run come to: each metric against the last release and against its budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.perf import compare as judges
from lifsea_testbed.perf.compare import BudgetCheck, Change, Comparison
from lifsea_testbed.perf.history import History
from lifsea_testbed.perf.metric import Metric, Sample


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one metric; without a release to compare with, there is no comparison."""

    metric: Metric
    comparison: Comparison | None
    budget: BudgetCheck | None
    remark: str = ""

    @property
    def lines(self) -> list[str]:
        """The verdicts in sentences."""
        first = str(self.comparison) if self.comparison else f"{self.metric.name} not compared"
        return [first + (f" ({self.remark})" if self.remark else ""), *([str(self.budget)] if self.budget else [])]

    @property
    def failures(self) -> list[str]:
        """Those of the sentences that fail a gate."""
        failed = [self.comparison] if self.comparison and self.comparison.change is Change.REGRESSED else []
        over = [self.budget] if self.budget and not self.budget.kept else []
        return [str(each) for each in (*failed, *over)]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What became of all metrics of a run."""

    findings: list[Finding]

    @property
    def lines(self) -> list[str]:
        """Every verdict in a sentence."""
        return [line for finding in self.findings for line in finding.lines]

    @property
    def failures(self) -> list[str]:
        """What fails a gate: regressions, and budgets that are not certain to be kept."""
        return [line for finding in self.findings for line in finding.failures]


def judge(history: History, samples: Iterable[Sample], *, floor: float = judges.FLOOR) -> Findings:
    """Judges the samples of one run, metric by metric, against what the history has of the last other release."""
    by_metric: dict[Metric, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(sample.metric, []).append(sample)
    return Findings(findings=[_finding(history, metric, taken, floor) for metric, taken in by_metric.items()])


def _finding(history: History, metric: Metric, samples: list[Sample], floor: float) -> Finding:
    build, values, budget = samples[0].build, [sample.value for sample in samples], samples[-1].budget
    baseline = history.baseline(build, metric)
    before = [sample.value for sample in baseline]
    return Finding(
        metric=metric,
        comparison=judges.compare(metric, before, values, floor=floor) if before else None,
        budget=judges.check(metric, values, budget) if budget is not None else None,
        remark=_remark(baseline, build.qemu),
    )


def _remark(baseline: list[Sample], qemu: str) -> str:
    """What the reader has to know of the release that was compared with."""
    if not baseline:
        return "the history has no release in this setting"
    release = baseline[-1].build
    other = "" if release.qemu == qemu else f", under QEMU {release.qemu} then and {qemu} now"
    return f"against {release.label}{other}"
