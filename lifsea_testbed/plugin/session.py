"""One run of pytest against an image: the hooks that need an image, registered only when there is one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.errors import Blame, CallerError, Explained, HostError
from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.factory import Bench
from lifsea_testbed.machine.pool import Restorer
from lifsea_testbed.machine.preflight import Prepared, Wish, prepare
from lifsea_testbed.machine.sharing import SharedMachine
from lifsea_testbed.machine.snapshot_cache import TemplateCache
from lifsea_testbed.plugin import asked, ordering
from lifsea_testbed.plugin.items import attempt_of, claim_of, machines_of
from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.report import allure, allure_report, evidence, excuses, github, known_issues, terminal
from lifsea_testbed.report.collector import Collector, run_record
from lifsea_testbed.report.document import Document, figure
from lifsea_testbed.report.gate import Outcome
from lifsea_testbed.report.known_issues import Known
from lifsea_testbed.report.outcome import Judgement, Status, judge
from lifsea_testbed.report.progress import Spinner
from lifsea_testbed.report.signature import Signer
from lifsea_testbed.support import private_dir, steps
from lifsea_testbed.support.deadline import parse_duration
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import printable, slug

#: The fixtures that are a machine which no later test needs.
_KEPT = frozenset({"machine", "own_machine"})
#: A reason is a line; the evidence has the whole story (characters).
_LONGEST_WHY = 500
_MARKS = pytest.StashKey[dict[str, evidence.Mark]]()


class Run:
    """The state of one process of the run: in the main process also the collector of all outcomes."""

    def __init__(self, config: pytest.Config, prepared: Prepared, known: Known, signer: Signer | None) -> None:
        self.bench: Bench = prepared.bench()
        self.bench.say = self._say
        self.restorer = Restorer(self.bench, TemplateCache(snapshot_cache.directory()), cold=config.option.cold,
                                 keeps=config.option.keep == "on-failure")  # fmt: skip
        self.shared = SharedMachine(self.restorer, lambda: self.bench.profile)
        #: Returns what the figures make of the verdict: failures, and troubles of the test bed.
        self.judge_figures: Callable[[], tuple[list[str], list[str]]] = lambda: ([], [])
        #: Returns by which plan the tests were cut into shards, if they were.
        self.plan: Callable[[], str] = lambda: ""
        self._troubles: list[str] = []
        # A shard may have no test at all.
        self._usual = (0, 1, 5) if prepared.wish.shard else (0, 1)
        #: What became of the figures, a sentence each.
        self.findings: list[str] = []
        self._config, self._prepared, self._known = config, prepared, known
        is_worker = hasattr(config, "workerinput")
        self._collector = None if is_worker else Collector(
            prepared, known, version=printable(config.option.image_version),
            flaky_fails=bool(getattr(config.option, "fail_on_flaky", False)))  # fmt: skip
        self._signer = signer
        self._spinner = None if is_worker else Spinner(self._write_line)
        self._reruns = asked.reruns(config)
        self._document: Document | None = None
        self._lines: dict[str, int] = {}
        self._ended: dict[str, Outcome] = {}

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
            known_issues=tuple(Path(path).resolve() for path in config.option.known_issues),
            dump_memory=config.option.dump_memory, shard=config.option.shard,
            workers=getattr(config.option, "numprocesses", None) or 1,
            data_disk=config.option.data_disk,
        )  # fmt: skip
        if controller := asked.told(config, "lifsea_controller"):
            private_dir.die_with_parent(controller)
            # A worker of xdist knows the command line alone.
            config.option.loadgroup = asked.told(config, "lifsea_groups")
        try:
            parse_duration(config.option.power_cuts or "0s", "--power-cuts")
            signer = asked.signer(config)
            known = known_issues.load(known_issues.files(wish.known_issues, wish.profile), on=known_issues.today())
            prepared = prepare(wish, found=asked.found(config))
        except (CallerError, HostError) as error:
            raise pytest.UsageError(printable(error.one_line)) from None
        if not config.option.allure_report_dir:
            config.option.allure_report_dir = str(wish.reports / "allure")
            config.option.clean_alluredir = True
        return cls(config, prepared, known, signer)

    def close(self) -> None:
        """Removes what the machines left and says the last line."""
        self.shared.close()
        self.restorer.close()
        self.bench.close()
        steps.listen()
        if self._spinner:
            self._spinner.close()
        if self._collector:
            xdist: Any = self._config.pluginmanager.get_plugin("dsession")
            if xdist is not None:
                xdist.pytest_sessionfinish()  # pytest leaves that out if a run did not start: its workers live on
            private_dir.clean()  # a worker that died has left its machines' directory
        if self._document and self._collector:
            for line in github.commands(self._document, self._lines, os.environ):
                print(line)
            print(terminal.verdict(self._document, _relative(self._collector.path)), flush=True)

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
        if prepared.accelerator.kind is AcceleratorKind.TCG and not prepared.emulator.threads_are_sound:
            lines.append(f"WARNING: QEMU {prepared.emulator.version} emulates all processors on one thread, for a bug "
                         "of its own; 8.1 and later are faster")  # fmt: skip
        if prepared.cleaned:
            lines.append(f"removed what dead runs had left: {', '.join(map(str, prepared.cleaned))}")
        lines.append(f"machines: booted, not restored: {self.restorer.why_cold}" if self.restorer.why_cold else
                     f"machines: restored from a template in {snapshot_cache.directory()}")  # fmt: skip
        if fitting.is_short:
            lines.append(f"WARNING: {fitting.memory} MiB instead of {fitting.wanted}: the host has no more to give")
        return lines

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells a worker of xdist what was found out already."""
        node.workerinput["lifsea_groups"] = self._config.option.dist == "loadgroup"
        # There each worker runs each test, and has its own evidence of it.
        node.workerinput["lifsea_worker"] = node.gateway.id if self._config.option.dist == "each" else ""
        node.workerinput["lifsea_controller"] = os.getpid()
        node.workerinput["lifsea_found"] = self._prepared.found.facts()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> object:
        """Has a run go on after a worker died."""
        from lifsea_testbed.plugin import xdist

        return xdist.scheduler(config, log)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str) -> None:
        """Knows of a test whose worker died: nothing is known of what it judges."""
        self._troubles.append(f"a worker died in {ordering.name(crashitem)}")

    # Tests, one by one

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Tells Allure the claim, of a test as well whose machine will not come up."""
        steps.listen(allure.Steps())
        if claim := claim_of(item):
            allure.name(catalogue()[claim], page=self._claims_page)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Remembers where each machine stands before the test."""
        machines = machines_of(item)
        item.stash[_MARKS] = {name: evidence.mark(machine) for name, machine in machines.items() if machine.boots}
        if claim := claim_of(item):
            allure.describe(catalogue()[claim], page=self._claims_page)
        return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judges the test by the exception that ended it, keeps evidence, and stamps the report."""
        error = call.excinfo.value if call.excinfo else None
        if isinstance(error, AssertionError):
            error.args = tuple(redact(each) if isinstance(each, str) else each for each in error.args)
        report = yield
        if isinstance(error, pytest.skip.Exception) or (error is None and call.when != "call"):
            return report
        judgement = self._judge(item, report, error)
        if isinstance(error, Explained):
            report.longrepr = printable(f"{type(error).__name__}: {error}")
        wrong = judgement.status.is_wrong
        folder = self._keep_evidence(item, report, error, judgement) if wrong or call.when == "call" else None
        if wrong and folder:
            self._explain(report, item, error, folder)
        self._stamp(report, item, judgement, folder if wrong else None)
        if wrong and call.when == "call" and self._config.option.keep:
            report.sections.append(("kept", "\n".join(self._keep(item))))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collects the outcomes, in the main process, from whichever process they come."""
        if self._spinner:
            self._spinner.stop()
        if str(report.outcome) == "rerun":
            self.bench.forgive()
        if self._collector is None:
            return
        self._lines[report.nodeid] = (report.location[1] or 0) + 1
        self._collector.add_duration(report.nodeid, report.duration)
        if figures := getattr(report, "lifsea_figures", ()):
            self._collector.add_figures(figure(report.nodeid, fields) for fields in figures)
        if fields := getattr(report, "lifsea_outcome", None):
            profile, version = report.lifsea_image
            self._collector.add(Outcome.from_fields(fields), profile=profile, version=version)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Gives Allure, in the process that ran the test, the word of the gate."""
        if outcome := self._ended.pop(nodeid, None):
            again = outcome.status is Status.PASSED and outcome.attempt > 1
            allure.tell(self._config.pluginmanager.get_plugin("allure_listener"),
                        Status.FLAKY if again else outcome.status, blame=outcome.blame, issue=outcome.issue,
                        why=f"passed at attempt {outcome.attempt}" if again else outcome.why)  # fmt: skip

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Has pytest-rerunfailures run again what failed by no fault of the product, or whatever the user allows."""
        for item in items if self._reruns else ():
            item.add_marker(pytest.mark.flaky(reruns=self._reruns, condition=self._may_rerun), append=False)

    # The end

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Settles the verdict and makes it the exit status."""
        if self._collector is None:
            return
        name = pytest.ExitCode(exitstatus).name.lower()
        stopped = [] if exitstatus in self._usual else [f"pytest stopped early ({name})"]
        failures, troubles = self.judge_figures()
        document = self._collector.finish([*stopped, *self._troubles, *troubles], failures, plan=self.plan(),
                                          findings=self.findings)
        if self._signer:
            self._signer.sign(self._collector.path, document)
        if exitstatus != pytest.ExitCode.INTERRUPTED:
            session.exitstatus = document.exit_status or int(exitstatus)
        github.add_summary(document, os.environ)
        allure_report.prepare(document, self._prepared.wish.reports, Path(self._config.option.allure_report_dir))
        self._document = document

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Shows what became of each claim."""
        if self._document is None:
            return
        terminalreporter.section("claims")
        for line, colour in terminal.lines(self._document, terminalreporter._tw.fullwidth):
            terminalreporter.write_line(printable(line), **{colour: True})

    @property
    def flakes(self) -> dict[str, int]:
        """The tests that passed only at a later attempt, and at which."""
        return self._collector.flakes if self._collector else {}

    def _judge(self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> Judgement:
        """The judgement on the test, once the known issues were asked; the report is made to agree with it."""
        judgement = judge(error)
        text = str(error) if isinstance(error, Explained) else report.longreprtext
        judgement = excuses.excuse(judgement, self._known, claim=claim_of(item) or "", text=text,
                                   profile=self.bench.profile_name, version=self._version)  # fmt: skip
        if judgement.status is Status.NOT_JUDGED:
            path, line, _ = item.location
            report.outcome, report.longrepr = "skipped", (path, line or 0, f"not judged: {error}")
        if judgement.status is Status.KNOWN:
            report.outcome, report.wasxfail = "skipped", printable(judgement.why)
        return judgement

    def _keep_evidence(self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None,
                       judgement: Judgement) -> Path | None:
        marks, machines = item.stash.get(_MARKS, {}), machines_of(item)
        failed = judgement.status.is_wrong
        if not failed and not marks:
            return None
        folder = self._prepared.wish.reports / "evidence" / evidence.name_of(item.nodeid, attempt_of(item))
        folder /= asked.told(self._config, "lifsea_worker") or ""
        bundle = evidence.Bundle(folder)
        for name, machine in machines.items():
            prefix = f"{name}-" if len(machines) > 1 else ""
            if name in marks:
                bundle.machine(machine, marks[name], prefix=prefix)
            if failed:
                machine.examine()
            bundle.records(machine.records, prefix=f"{prefix}machine-", names=() if failed else ["qemu-argv.txt"])
        if failed and (records := getattr(error, "records", None)):
            bundle.records(records, prefix="machine-")
        if failed:
            bundle.write("explanation.txt", report.longreprtext)
            bundle.about(self._facts(item, judgement))
        return folder

    def _facts(self, item: pytest.Item, judgement: Judgement) -> dict[str, str]:
        record = run_record(self._prepared)
        return {
            "test": item.nodeid, "claim": claim_of(item) or "none", "verdict": str(judgement.status),
            "fault of": str(judgement.blame or "nobody"), "why": judgement.why, "reproduce": self._command(item),
            "image": f"{self._prepared.image.path} sha256 {self._prepared.image.sha256} version {self._version or '?'}",
            "profile": self.bench.profile_name, "accelerator": str(self._prepared.accelerator),
            "host": f"{record.host.processor}, {record.host.cores} cores, kernel {record.host.kernel}",
            "versions": ", ".join(f"{name} {version}" for name, version in record.tools.items()),
        }  # fmt: skip

    def _keep(self, item: pytest.Item) -> Iterator[str]:
        """Saves the machines of a failed test as they stand; yields how to get at each, or why one is lost."""
        for name in _KEPT & machines_of(item).keys():
            directory = self._prepared.wish.reports / "kept" / slug(f"{item.nodeid}-{name}")
            try:
                self.restorer.keep(machines_of(item)[name], directory, self._prepared.wish.profile)
            except (Explained, OSError) as error:
                yield f"{name} could not be kept: {error}"
            else:
                yield f"{name}: python -m lifsea_testbed shell --kept {shlex.quote(_relative(directory))}"

    def _explain(self, report: pytest.TestReport, item: pytest.Item, error: BaseException | None,
                 folder: Path) -> None:
        """Adds to a failure what a person looks for first: the console's end, and how to see it again."""
        consoles = {name: evidence.tail(machine) for name, machine in machines_of(item).items()}
        for name, text in consoles.items():
            report.sections.append((f"console of {name}, last lines", text))
            allure.attach(f"console of {name}", text)
        for picture in sorted(folder.glob("*.png")):
            allure.attach_picture(picture.name, picture)
        if isinstance(error, Explained):
            allure.attach("explanation", report.longreprtext)
        report.sections.append(("more", f"evidence: {_relative(folder)}\nreproduce: {self._command(item)}"))

    def _stamp(self, report: pytest.TestReport, item: pytest.Item, judgement: Judgement, folder: Path | None) -> None:
        kept = str(folder.relative_to(self._prepared.wish.reports)) if folder else ""
        why = printable(judgement.why).replace("\n", " ")[:_LONGEST_WHY]
        outcome = Outcome(claim=claim_of(item) or "", test=item.nodeid, status=judgement.status, why=why,
                          evidence=kept, blame=str(judgement.blame or ""), issue=judgement.issue,
                          attempt=attempt_of(item))  # fmt: skip
        earlier = self._ended.get(item.nodeid)
        if earlier is None or outcome.status.gravity < earlier.status.gravity:
            self._ended[item.nodeid] = outcome
        report.lifsea_outcome = {**asdict(outcome), "status": str(outcome.status)}  # type: ignore[attr-defined]
        report.lifsea_image = [self.bench.profile_name, self._version]  # type: ignore[attr-defined]

    @property
    def _claims_page(self) -> str:
        return allure_report.claims_page(self._config.option.reports_url)

    @property
    def _version(self) -> str:
        return printable(self._config.option.image_version or self.bench.image_version)

    def _may_rerun(self, error: BaseException | None) -> bool:
        blame = judge(error).blame
        return blame in (Blame.HARNESS, Blame.HOST) or (blame is Blame.PRODUCT and self._config.option.rerun_product)

    def _command(self, item: pytest.Item) -> str:
        wish = self._prepared.wish
        options = ["--image", wish.image, "--profile", wish.profile, "--instance-type", wish.instance_type,
                   "--accel", wish.accelerator]  # fmt: skip
        options += ["--next-image", wish.next_image] if wish.next_image else []
        options += [f"--control-plane={self._config.option.control_plane}"] if self._config.option.control_plane else []
        options += [] if wish.data_disk is None else [f"--data-disk={wish.data_disk}"]
        options += [f"--claim={claim}" for claim in wish.claims]
        options += [f"--known-issues={path}" for path in wish.known_issues]
        return shlex.join(["pytest", item.nodeid, *options])

    def _say(self, line: str) -> None:
        if self._spinner and self._config.option.verbose >= 0:
            self._spinner.show(line)

    def _write_line(self, line: str) -> None:
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if reporter is not None:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(f"  {line}")


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
