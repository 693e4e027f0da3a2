"""The figures of one run: attached to test reports, collected in the main process, stored and judged at the end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from lifsea_testbed.errors import CallerError, Explained, HostError
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.perf import jsonlines
from lifsea_testbed.perf.metric import Better, Build, BuildKind, Measure, Measurement, Metric, Sample
from lifsea_testbed.plugin import options, xdist
from lifsea_testbed.report import collector
from lifsea_testbed.report.document import Host
from lifsea_testbed.support.programs import run_tool
from lifsea_testbed.support.sanitize import printable

if TYPE_CHECKING:
    from lifsea_testbed.perf.assessment import MetricFindings
    from lifsea_testbed.perf.history import History

MEASURED = pytest.StashKey[Measure]()
#: One sample for each test that passed only at a later attempt: the history counts them.
ATTEMPTS = Metric(name="attempts-until-passed", unit="attempts", better=Better.LOWER,
                  definition="At which attempt a flaky test passed; tests that passed at first have no sample.")
#: The greatest length of a version or name in the history; the rest is cut off (characters).
_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class FigureVerdict:
    """The figures' part of the verdict: failures, troubles of the test bed, and a sentence for each metric."""

    failures: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


class Figures:
    """Collects the figures of all processes of one run; the main process stores and judges them."""

    def __init__(self, config: pytest.Config, factory: MachineFactory, history: History | None) -> None:
        self._config = config
        self._factory = factory
        self._context = factory.context
        self._history = history
        self._taken: list[tuple[str, Measurement]] = []
        self._image = ("", "")
        self._token = uuid.uuid4().hex
        self._started = time.time()
        self._findings: MetricFindings | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attaches the figures to the report, also of a test that fails: its figures show why."""
        report = yield
        measure = item.stash.get(MEASURED, None)
        if call.when == "call" and measure is not None and measure.taken:
            report.lifsea_figures = [taken.fields() for taken in measure.taken]  # type: ignore[attr-defined]
            report.lifsea_figured_image = [self._factory.profile.name, self._factory.image_version]  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collects the figures of every process, in the main one."""
        self._image = tuple(getattr(report, "lifsea_image", self._image))
        for fields in getattr(report, "lifsea_figures", ()):
            self._taken.append((report.nodeid, Measurement.from_fields(fields)))
            self._image = tuple(report.lifsea_figured_image)

    def finish(self, flakes: Mapping[str, int]) -> FigureVerdict:
        """Writes metrics.jsonl, adds the figures to the history, and returns their part of the verdict.

        `flakes` maps each test that passed only at a later attempt to the number of that attempt.
        """
        path = self._context.reports / "metrics.jsonl"
        self._taken += [(test, Measurement(metric=ATTEMPTS, value=attempts))
                        for test, attempts in sorted(flakes.items())]  # fmt: skip
        if not self._taken:
            return FigureVerdict()
        samples = list(self._samples())
        jsonlines.save(samples, path)
        try:
            return self._judge(samples)
        except Explained as error:
            return FigureVerdict(troubles=[printable(error.one_line)], findings=self._lines)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints a line for each metric."""
        if self._findings is None:
            return
        terminalreporter.section("figures")
        for line in self._findings.lines:
            terminalreporter.write_line(f"  {printable(line)}")

    def pytest_unconfigure(self) -> None:
        """Closes the history."""
        if self._history is not None:
            self._history.__exit__()

    def _judge(self, samples: list[Sample]) -> FigureVerdict:
        if self._history is None:
            return FigureVerdict()
        from lifsea_testbed.perf import assessment

        self._findings = assessment.judge(self._history, samples, floor=options.of(self._config).perf_floor / 100)
        self._history.add(samples)
        return FigureVerdict(failures=self._findings.failures if options.of(self._config).perf_gate else [],
                             findings=self._lines)  # fmt: skip

    @property
    def _lines(self) -> list[str]:
        return [printable(line) for line in self._findings.lines] if self._findings else []

    def _samples(self) -> Iterator[Sample]:
        build, budgets = self._build(), self._factory.profile.budgets
        for number, (test, taken) in enumerate(self._taken, start=1):
            yield Sample(build=build, metric=taken.metric, value=taken.value, test=test, number=number,
                         budget=budgets.get(taken.metric.name))  # fmt: skip

    def _build(self) -> Build:
        context, option = self._context, options.of(self._config)
        return Build(
            token=self._token,
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            image_digest=context.image.sha256,
            image_version=printable(option.image_version or self._image[1])[:_LONGEST],
            revision=printable(option.revision or _revision())[:_LONGEST],
            profile=self._image[0],
            instance_type=context.instance_type.name,
            accelerator=str(context.accelerator.kind),
            qemu=context.emulator.version,
            processor=context.accelerator.cpu_model,
            workers=xdist.workers(self._config),
            memory=context.memory,
            host_class=printable(option.host_class or _host_class(collector.host()))[:_LONGEST],
            kind=BuildKind.RELEASE if option.perf_release else BuildKind.BUILD,
            reports=printable(option.reports_url),
        )  # fmt: skip


def measure_restore(item: pytest.Item, seconds: float) -> None:
    """Records the time in which the machine of a test was restored (seconds)."""
    measure_of(item)("restore", seconds, unit="s", better="lower",
                     definition="From a template on disk to a machine that answers, its clock stepped to now.")


def measure_of(item: pytest.Item) -> Measure:
    """Returns the object that records the figures of that test."""
    return item.stash.setdefault(MEASURED, Measure())


def open_history(config: pytest.Config) -> History | None:
    """Opens the history of --history, in the main process, if there is to be one.

    Raises:
        pytest.UsageError: the history cannot be used.
    """
    option = options.of(config)
    if option.perf_gate and not option.history:
        raise pytest.UsageError("--perf-gate: needs a history to compare with (hint: --history FILE)")
    try:
        return _open(option.history) if option.history and not xdist.is_worker(config) else None
    except (CallerError, HostError) as error:
        raise pytest.UsageError(printable(f"--history {error.one_line}")) from None


def _open(place: str) -> History:
    try:
        from lifsea_testbed.perf.history import History
    except ImportError as error:
        hint = "pip install 'lifsea-testbed[perf]'"
        raise CallerError(f"needs more packages: {error}", hint=hint) from None
    return History(place)


def _host_class(host: Host) -> str:
    return f"{host.processor}, {host.cores} cores"


def _revision() -> str:
    """The git revision of the working directory, with the suffix -dirty if it was changed; empty outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return run_tool(command, within=10.0, kept=["HOME"]).stdout.strip()  # git reads ~/.gitconfig: safe.directory
    except HostError:
        return ""
