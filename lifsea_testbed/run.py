"""One run of pytest against an image: the hooks that need an image, registered only when there is one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed import bench as benches
from lifsea_testbed import template_cache
from lifsea_testbed.bench import Bench, workers
from lifsea_testbed.claims import catalogue
from lifsea_testbed.errors import CallerError, Explained, HostError, NotJudged
from lifsea_testbed.machine import Machine
from lifsea_testbed.preflight import Prepared, Wish, prepare
from lifsea_testbed.qemu.accelerator import Accelerator, Kind
from lifsea_testbed.report import allure, evidence
from lifsea_testbed.report.collector import Collector
from lifsea_testbed.report.gate import Outcome, Verdict, counted
from lifsea_testbed.report.verdict import Judgement, Status, judge
from lifsea_testbed.restorer import Restorer
from lifsea_testbed.sharing import SharedMachine
from lifsea_testbed.template import keep
from lifsea_testbed.template_cache import TemplateCache
from lifsea_testbed.text import printable, slug

#: The fixtures that are a machine, or hold one.
_MACHINES = ("machine", "booted", "watched", "own_machine", "twins", "rebooted", "upgraded", "rolled_back")
#: Those of them that no later test needs.
_KEPT = frozenset({"machine", "own_machine"})
_MARKS = pytest.StashKey[dict[str, evidence.Mark]]()


class Run:
    """The state of one process of the run: in the main process also the collector of all outcomes."""

    def __init__(self, config: pytest.Config, prepared: Prepared) -> None:
        self.bench: Bench = prepared.bench()
        self.bench.say = self._say
        self.restorer = Restorer(self.bench, TemplateCache(template_cache.directory()), cold=config.option.cold,
                                 keeps=config.option.keep == "on-failure")  # fmt: skip
        self.shared = SharedMachine(self.restorer, lambda: self.bench.profile)
        #: Returns what the figures make of the verdict: failures, and troubles of the test bed.
        self.judge_figures: Callable[[], tuple[list[str], list[str]]] = lambda: ([], [])
        self._config = config
        self._prepared = prepared
        self._collector = None if hasattr(config, "workerinput") else Collector(prepared)
        self._last_line = ""

    @classmethod
    def start(cls, config: pytest.Config) -> Run:
        """Checks the command line and returns the run.

        Raises:
            pytest.UsageError: the input is bad, or the host cannot do it; nothing was started.
        """
        wish = Wish(
            image=config.option.image, next_image=config.option.next_image, profile=config.option.profile,
            instance_type=config.option.instance_type, accelerator=config.option.accel,
            reports=Path(config.option.reports).resolve(), claims=tuple(config.option.claim),
        )  # fmt: skip
        try:
            prepared = prepare(wish, measured=_measured(config))
        except (CallerError, HostError) as error:
            raise pytest.UsageError(printable(error.one_line)) from None
        config.option.xmlpath = config.option.xmlpath or str(wish.reports / "junit.xml")
        if not config.option.allure_report_dir:
            config.option.allure_report_dir = str(wish.reports / "allure")
            config.option.clean_alluredir = True
        return cls(config, prepared)

    def close(self) -> None:
        """Removes what the machines left and says the last line."""
        self.shared.close()
        self.restorer.close()
        self.bench.close()
        if self._last_line:
            print(self._last_line, flush=True)

    @property
    def prepared(self) -> Prepared:
        """What was checked and measured before the run."""
        return self._prepared

    # What the run is about

    def pytest_report_header(self) -> list[str]:
        """Says what is judged, on what, and how."""
        prepared, wish = self._prepared, self._prepared.wish
        fitting = prepared.fitting
        lines = [
            f"image: {prepared.image.path} ({prepared.image.format}, {prepared.image.file_size >> 20} MiB), "
            f"profile {wish.profile}",
            f"instance: {wish.instance_type}, {fitting.memory} MiB, accelerator {prepared.accelerator}",
        ]
        if prepared.accelerator.kind is Kind.TCG and not prepared.emulator.threads_are_sound:
            lines.append(f"WARNING: QEMU {prepared.emulator.version} emulates all processors on one thread, for a bug "
                         "of its own; 8.1 and later are faster")  # fmt: skip
        lines.append(f"machines: booted, not restored: {self.restorer.why_cold}" if self.restorer.why_cold else
                     f"machines: restored from a template in {template_cache.directory()}")  # fmt: skip
        if fitting.is_short:
            lines.append(f"WARNING: {fitting.memory} MiB instead of {fitting.wanted}: the host has no more to give")
        return lines

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells a worker of xdist what was measured already."""
        accelerator = self._prepared.accelerator
        node.workerinput["lifsea_accelerator"] = {**asdict(accelerator), "kind": str(accelerator.kind)}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_auto_num_workers(self) -> int:
        """Bounds the workers by memory as well as by processors: each has a machine of its own."""
        return workers(processors=benches.host_cores() // self.bench.instance_type.cpus,
                       memory=benches.available_memory() // self._prepared.fitting.memory)  # fmt: skip

    # Tests, one by one

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Remembers where each machine stands before the test."""
        machines = _machines(item)
        item.stash[_MARKS] = {name: evidence.mark(machine) for name, machine in machines.items() if machine.boots}
        if claim := _claim(item):
            allure.describe(claim, catalogue()[claim].promise)
        return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judges the test by the exception that ended it, keeps evidence, and stamps the report."""
        report = yield
        error = call.excinfo.value if call.excinfo else None
        if isinstance(error, pytest.skip.Exception) or (error is None and call.when != "call"):
            return report
        if isinstance(error, NotJudged):
            path, line, _ = item.location
            report.outcome, report.longrepr = "skipped", (path, line or 0, f"not judged: {error}")
        judgement = judge(error)
        folders = self._keep_evidence(item, judgement) if call.when == "call" else []
        if judgement.status in (Status.FAILED, Status.BROKEN):
            self._explain(report, item, error, folders)
        self._stamp(report, item, judgement)
        if call.when == "call" and judgement.status in (Status.FAILED, Status.BROKEN) and self._config.option.keep:
            report.sections.append(("kept", "\n".join(self._keep(item))))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collects the outcomes, in the main process, from whichever process they come."""
        fields = getattr(report, "lifsea_outcome", None)
        if fields and self._collector:
            self._collector.add(Outcome.from_fields(fields), profile=report.lifsea_profile)

    # The end

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Settles the verdict and makes it the exit status."""
        if self._collector is None:
            return
        stopped = [] if exitstatus in (0, 1) else [f"pytest stopped early ({pytest.ExitCode(exitstatus).name.lower()})"]
        failures, troubles = self.judge_figures()
        verdict, why = self._collector.finish([*stopped, *troubles], failures)
        if exitstatus != pytest.ExitCode.INTERRUPTED:
            session.exitstatus = _exit_status(verdict, exitstatus)
        results = self._collector.results()
        self._last_line = (f"verdict: {verdict} - {self._collector.profile}: {counted(results)} of {len(results)} "
                           f"claims; {why} ({_relative(self._collector.path)})")  # fmt: skip

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Shows what became of each claim."""
        if self._collector is None:
            return
        terminalreporter.section("claims")
        for result in self._collector.results():
            markup = {Status.PASSED: {"green": True}, Status.NOT_JUDGED: {"yellow": True}}
            why = f"  {printable(result.why)}" if result.why else ""
            status = str(result.status).replace("_", " ")
            terminalreporter.write_line(f"{status:>10}  {result.id}{why}", **markup.get(result.status, {"red": True}))

    def _keep_evidence(self, item: pytest.Item, judgement: Judgement) -> list[Path]:
        failed = judgement.status in (Status.FAILED, Status.BROKEN)
        marks = item.stash.get(_MARKS, {})
        return [
            evidence.collect(machine, marks[name], self._prepared.wish.reports / "evidence", item.nodeid, failed=failed)
            for name, machine in _machines(item).items()
            if name in marks
        ]

    def _keep(self, item: pytest.Item) -> Iterator[str]:
        """Saves the machines of a failed test as they stand; yields how to get at each, or why one is lost."""
        for name in _KEPT & _machines(item).keys():
            machine = _machines(item)[name]
            directory = self._prepared.wish.reports / "kept" / slug(f"{item.nodeid}-{name}")
            wished = self._prepared.wish.profile
            profile = self.bench.profile_name if wished == benches.AUTO else wished
            try:
                keep(machine, directory, key=self.restorer.key(), profile=profile)
            except (Explained, OSError) as error:
                yield f"{name} could not be kept: {error}"
            else:
                yield f"{name}: python -m lifsea_testbed shell --kept {shlex.quote(_relative(directory))}"

    def _explain(self, report: pytest.TestReport, item: pytest.Item, error: BaseException | None,
                 folders: list[Path]) -> None:
        """Adds to a failure what a person looks for first: the console's end, and how to see it again."""
        consoles = {name: evidence.tail(machine) for name, machine in _machines(item).items()}
        for name, text in consoles.items():
            report.sections.append((f"console of {name}, last lines", text))
            allure.attach(f"console of {name}", text)
        if isinstance(error, Explained):
            report.longrepr = printable(f"{type(error).__name__}: {error}")
            allure.attach("explanation", report.longrepr)
        where = ", ".join(map(_relative, folders)) or _relative(self._prepared.wish.reports / "evidence")
        report.sections.append(("more", f"evidence: {where}\nreproduce: {self._command(item)}"))

    def _stamp(self, report: pytest.TestReport, item: pytest.Item, judgement: Judgement) -> None:
        item.user_properties.append(("verdict", str(judgement.status)))
        if judgement.blame:
            item.user_properties.append(("blame", str(judgement.blame)))
        if claim := _claim(item):
            outcome = Outcome(claim=claim, test=item.nodeid, status=judgement.status, why=printable(judgement.why),
                              blame=str(judgement.blame or ""))  # fmt: skip
            report.lifsea_outcome = {**asdict(outcome), "status": str(outcome.status)}  # type: ignore[attr-defined]
            report.lifsea_profile = self.bench.profile_name  # type: ignore[attr-defined]

    def _command(self, item: pytest.Item) -> str:
        wish = self._prepared.wish
        options = ["--image", wish.image, "--profile", wish.profile, "--instance-type", wish.instance_type,
                   "--accel", wish.accelerator]  # fmt: skip
        options += ["--next-image", wish.next_image] if wish.next_image else []
        options += [f"--claim={claim}" for claim in wish.claims]
        return shlex.join(["pytest", item.nodeid, *options])

    def _say(self, line: str) -> None:
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if reporter is not None and self._config.option.verbose >= 0:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(f"  {line}")


def _machines(item: pytest.Item) -> dict[str, Machine]:
    values = getattr(item, "funcargs", {})
    return {name: getattr(values[name], "machine", values[name]) for name in _MACHINES
            if name in values and name in item.fixturenames}  # type: ignore[attr-defined] # fmt: skip


def _claim(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("claim")
    return str(marker.args[0]) if marker else None


def _measured(config: pytest.Config) -> Accelerator | None:
    fields = getattr(config, "workerinput", {}).get("lifsea_accelerator")
    return Accelerator(**{**fields, "kind": Kind(fields["kind"])}) if fields else None


def _exit_status(verdict: Verdict, pytest_status: int) -> int:
    return verdict.exit_status if verdict is not Verdict.PASS else int(pytest_status)


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
