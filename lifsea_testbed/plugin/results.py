"""The result of each test: judged by the exception that ended it, with its evidence, in the process that ran it."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.errors import Blame, Explained, NotJudged
from lifsea_testbed.machine.pool import MachinePool
from lifsea_testbed.plugin import log_output, options, xdist
from lifsea_testbed.plugin.items import attempt_of, claim_of, cross_check_of, judges_hardware, machines_of
from lifsea_testbed.plugin.judgement import NOT_RUN, judge_test
from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.report import allure, evidence, known_issues
from lifsea_testbed.report.collector import Collector, run_record
from lifsea_testbed.report.document import Verdict, figure
from lifsea_testbed.report.gate import TestOutcome
from lifsea_testbed.report.known_issues import KnownIssueList
from lifsea_testbed.report.outcome import Judgement, Status, in_words
from lifsea_testbed.report.terminal import Spinner
from lifsea_testbed.support import steps
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import printable, slug

#: The fixtures whose machine no later test needs: --keep saves it in its present state.
_KEPT = frozenset({"machine", "own_machine"})
#: The greatest length of a reason, which is one line; the evidence has the rest (characters).
_LONGEST_WHY = 500
_MARKS = pytest.StashKey[dict[str, evidence.EvidenceMark]]()


class Results:
    """Judges tests and keeps evidence in each process; collects the outcomes of all processes in the main one.

    `lines` maps each test that ended to its line in its file, `troubles` has what could not be kept of one.
    """

    def __init__(self, config: pytest.Config, pool: MachinePool, known: KnownIssueList, collector: Collector | None,
                 spinner: Spinner | None) -> None:
        self.lines: dict[str, int] = {}
        self.troubles: list[str] = []
        self._config = config
        self._pool = pool
        self._factory = pool.factory
        self._context = pool.factory.context
        self._known = known
        self._collector = collector
        self._spinner = spinner
        self._reruns = _reruns(config)
        self._ended: dict[str, TestOutcome] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Writes the claim into Allure's result, also for a test whose machine does not come up."""
        steps.listen(allure.Steps())
        if claim := claim_of(item):
            allure.name(catalogue()[claim], page=self._claims_page)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Marks the place in each machine's records where the test begins."""
        machines = machines_of(item)
        item.stash[_MARKS] = {name: evidence.mark(machine) for name, machine in machines.items() if machine.boots}
        if claim := claim_of(item):
            allure.describe(catalogue()[claim], page=self._claims_page)
        return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judges the test by the exception that ended it, keeps evidence, and attaches the outcome to the report."""
        error = call.excinfo.value if call.excinfo else None
        if error is not None:
            error.args = tuple(redact(printable(each)) if isinstance(each, str) else each for each in error.args)
        report = yield
        log_output.clean(report)
        if (error is None and call.when != "call") or (isinstance(error, NOT_RUN) and not self._counts(item, call)):
            return report
        judgement = self._judge(item, report, error)
        if isinstance(error, Explained) and judgement.status is not Status.NOT_JUDGED:
            report.longrepr = f"{type(error).__name__}: {error}"
        wrong = judgement.status.is_wrong
        folder = self._evidence(item, report, error, judgement) if wrong or call.when == "call" else None
        if wrong and folder:
            self._explain(report, item, error, folder)
        self._stamp(report, item, judgement, folder if wrong else None)
        if wrong and call.when == "call" and options.of(self._config).keep:
            report.sections.append(("kept", "\n".join(self._keep_machines(item))))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collects the outcomes of every process, in the main one."""
        if self._spinner:
            self._spinner.stop()
        if not xdist.is_worker(self._config):
            log_output.disarm(report)
        if str(report.outcome) == "rerun":
            self._factory.clear_first_boot_error()
        if self._collector is None:
            return
        self.lines[report.nodeid] = (report.location[1] or 0) + 1
        self._collector.add_duration(report.nodeid, report.duration)
        if figures := getattr(report, "lifsea_figures", ()):
            self._collector.add_figures(figure(report.nodeid, fields) for fields in figures)
        if trouble := getattr(report, "lifsea_trouble", None):
            self.troubles.append(trouble)
        if fields := getattr(report, "lifsea_outcome", None):
            profile, version = report.lifsea_image
            outcome = _agreed(TestOutcome.from_fields(fields), report)
            try:
                self._collector.add(outcome, profile=profile, version=version)
            except OSError as error:
                pytest.exit(f"the reports cannot be written: {error.strerror or error}",
                            returncode=Verdict.BROKEN.exit_status)  # fmt: skip

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Sets Allure's status details to the gate's verdict, in the process that ran the test."""
        if outcome := self._ended.pop(nodeid, None):
            again = outcome.status is Status.PASSED and outcome.attempt > 1
            why = f"passed at attempt {outcome.attempt}" if again else outcome.why
            allure.set_verdict(self._config.pluginmanager.get_plugin("allure_listener"),
                               Status.FLAKY if again else outcome.status, blame=outcome.blame, issue=outcome.issue,
                               reason=outcome.reason, why=why)  # fmt: skip

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Marks tests to run again after a failure of test bed or host; with --rerun-product, of the image too."""
        for item in items if self._reruns else ():
            condition = functools.partial(self._may_rerun, item)
            item.add_marker(pytest.mark.flaky(reruns=self._reruns, condition=condition), append=False)

    def _counts(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> bool:
        """Whether a test that is skipped leaves a claim of the profile without a judge."""
        return claim_of(item) in self._factory.profile.claims and call.when != "teardown"

    def _judge(self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> Judgement:
        """Returns the judgement on the test, known issues considered, and makes the report agree with it."""
        judgement = judge_test(item, error)
        text = str(error) if isinstance(error, Explained) else report.longreprtext
        judgement = known_issues.excuse(judgement, self._known, claim=claim_of(item) or "", text=text,
                                        profile=self._factory.profile.name, version=self._version)  # fmt: skip
        if judgement.status is Status.NOT_JUDGED and not isinstance(error, NOT_RUN):
            path, line, _ = item.location
            why = judgement.why.partition(": ")[0] if isinstance(error, Explained) else judgement.why
            words = f"{in_words(judgement.status, judgement.reason)}: {why}"
            report.outcome, report.longrepr = "skipped", (path, line or 0, words)
        if judgement.status is Status.KNOWN:
            report.outcome, report.wasxfail = "skipped", printable(judgement.why)
        return judgement

    def _evidence(self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None,
                  judgement: Judgement) -> Path | None:
        """Keeps the evidence and returns its folder; if it cannot be written, that is a trouble of the run."""
        try:
            return self._keep_evidence(item, report, error, judgement)
        except OSError as lost:
            trouble = printable(f"{item.nodeid}: its evidence cannot be written: {lost.strerror or lost}")
            report.lifsea_trouble = trouble  # type: ignore[attr-defined]
            report.sections.append(("evidence", trouble))
            return None

    def _keep_evidence(self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None,
                       judgement: Judgement) -> Path | None:
        marks, machines = item.stash.get(_MARKS, {}), machines_of(item)
        failed = judgement.status.is_wrong
        if not failed and not marks:
            return None
        folder = self._context.reports / "evidence" / evidence.name_of(item.nodeid, attempt_of(item))
        folder /= xdist.evidence_folder(self._config)
        bundle = evidence.Bundle(folder)
        facts = self._facts(item, judgement) if failed else {}
        if failed:
            bundle.write("explanation.txt", report.longreprtext)
            bundle.about(facts)
        for name, machine in machines.items():
            prefix = f"{name}-" if len(machines) > 1 else ""
            if name in marks:
                bundle.machine(machine, marks[name], prefix=prefix)
            if failed:
                machine.collect_postmortem()
            bundle.records(machine.records, prefix=f"{prefix}machine-", names=() if failed else ["qemu-argv.txt"])
        if failed and (records := getattr(error, "records", None)):
            bundle.records(records, prefix="machine-")
        if failed:
            bundle.about(facts)
        return folder

    def _facts(self, item: pytest.Item, judgement: Judgement) -> dict[str, str]:
        record, image = run_record(self._context), self._context.image
        return {
            "test": item.nodeid, "claim": claim_of(item) or "none", "verdict": str(judgement.status),
            "fault of": str(judgement.blame or "nobody"), "why": judgement.why, "reproduce": self._command(item),
            "image": f"{image.path} sha256 {image.sha256} version {self._version or '?'}",
            "profile": self._factory.profile.name, "accelerator": str(self._context.accelerator),
            "host": f"{record.host.processor}, {record.host.cores} cores, kernel {record.host.kernel}",
            "versions": ", ".join(f"{name} {version}" for name, version in record.tools.items()),
        }  # fmt: skip

    def _keep_machines(self, item: pytest.Item) -> Iterator[str]:
        """Saves the machines of a failed test; yields the command that opens each, or why one cannot be saved."""
        for name in _KEPT & machines_of(item).keys():
            directory = self._context.destination / "kept" / slug(f"{item.nodeid}-{name}")
            try:
                self._pool.keep(machines_of(item)[name], directory)
            except (Explained, OSError) as error:
                yield f"--keep on-failure: {name} cannot be saved: {error}"
            else:
                yield f"{name}: python -m lifsea_testbed shell --kept {shlex.quote(relative(directory))}"

    def _explain(self, report: pytest.TestReport, item: pytest.Item, error: BaseException | None,
                 folder: Path) -> None:
        """Adds to a failure the end of each console, the evidence, and the command that reproduces it."""
        consoles = {name: evidence.tail(machine) for name, machine in machines_of(item).items()}
        for name, text in consoles.items():
            report.sections.append((f"console of {name}, last lines", text))
            allure.attach(f"console of {name}", text)
        for picture in sorted(folder.glob("*.png")):
            allure.attach_picture(picture.name, picture)
        if isinstance(error, Explained):
            allure.attach("explanation", report.longreprtext)
        place = relative(self._context.place_of(folder))
        report.sections.append(("more", f"evidence: {place}\nreproduce: {self._command(item)}"))

    def _stamp(self, report: pytest.TestReport, item: pytest.Item, judgement: Judgement, folder: Path | None) -> None:
        kept = str(folder.relative_to(self._context.reports)) if folder else ""
        why = printable(judgement.why).replace("\n", " ")[:_LONGEST_WHY]
        checked = cross_check_of(item)
        outcome = TestOutcome(claim=claim_of(item) or "", test=item.nodeid, status=judgement.status, why=why,
                              evidence=kept, blame=str(judgement.blame or ""), reason=str(judgement.reason or ""),
                              issue=judgement.issue, attempt=attempt_of(item),
                              hardware=judges_hardware(item), uptime=_uptime(item, judgement),
                              roads=checked.roads if checked else (),
                              one_road=printable(checked.why_one)[:_LONGEST_WHY] if checked else "")  # fmt: skip
        earlier = self._ended.get(item.nodeid)
        if earlier is None or outcome.status.gravity < earlier.status.gravity:
            self._ended[item.nodeid] = outcome
        report.lifsea_outcome = outcome.fields()  # type: ignore[attr-defined]
        report.lifsea_image = [self._factory.profile.name, self._version]  # type: ignore[attr-defined]

    @property
    def _claims_page(self) -> str:
        return allure.claims_page(options.of(self._config).reports_url)

    @property
    def _version(self) -> str:
        return printable(options.of(self._config).image_version or self._factory.image_version)

    def _may_rerun(self, item: pytest.Item, error: BaseException | None) -> bool:
        blame = judge_test(item, error).blame
        again = options.of(self._config).rerun_product
        return blame in (Blame.HARNESS, Blame.HOST) or (blame is Blame.PRODUCT and again)

    def _command(self, item: pytest.Item) -> str:
        """The command that runs this test again."""
        context, option = self._context, options.of(self._config)
        name = functools.partial(options.name, self._config)
        given = [name("image"), option.image, name("profile"), context.profile,
                 name("instance-type"), context.instance_type.name,
                 name("accel"), context.accelerator_option, name("firmware"), context.firmware]  # fmt: skip
        given += [name("next-image"), option.next_image] if option.next_image else []
        given += [f"{name('control-plane')}={option.control_plane}"] if option.control_plane else []
        given += [] if context.data_disk is None else [f"{name('data-disk')}={context.data_disk}"]
        given += [f"{name('claim')}={claim}" for claim in context.claims]
        given += [f"{name('known-issues')}={path}" for path in context.known_issues]
        return shlex.join(["pytest", item.nodeid, *given])


def _agreed(outcome: TestOutcome, report: pytest.TestReport) -> TestOutcome:
    """The outcome of a test: broken if pytest counts a failure without an exception, as a strict xfail that passed."""
    if not report.failed or outcome.status is not Status.PASSED:
        return outcome
    why = f"pytest counts it as failed: {printable(report.longreprtext).strip()[:_LONGEST_WHY]}".replace("\n", " ")
    return replace(outcome, status=Status.BROKEN, blame=str(Blame.HARNESS), why=why)


def _uptime(item: pytest.Item, judgement: Judgement) -> int | None:
    """The uptime (s) of the watched machine that a test has just looked at; None if it judged nothing, or is down."""
    machine = machines_of(item).get("watched")
    if machine is None or judgement.status is Status.NOT_JUDGED:
        return None
    try:
        return int(machine.guest.kernel.uptime())
    except (Explained, NotJudged):
        return None


def relative(path: Path) -> str:
    """Returns the path below the working directory, or the whole path of a file elsewhere."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):
        return str(path)


def _reruns(config: pytest.Config) -> int:
    """The number of reruns that pytest-rerunfailures allows a test, by the option or the configuration file."""
    option = getattr(config.option, "reruns", None)
    if option is not None or not config.pluginmanager.has_plugin("rerunfailures"):
        return option or 0
    written = str(config.getini("reruns") or "0")
    return int(written) if written.isdecimal() else 0
