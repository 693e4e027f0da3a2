"""One run of pytest against an image: its start, its header, and its verdict."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lifsea_testbed.errors import CallerError, HostError
from lifsea_testbed.machine import preflight, snapshot_cache
from lifsea_testbed.machine.access import require_methods
from lifsea_testbed.machine.context import RunContext
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.pool import MachinePool
from lifsea_testbed.machine.snapshot_cache import SnapshotCache
from lifsea_testbed.plugin import options, xdist
from lifsea_testbed.plugin.ending import Ending
from lifsea_testbed.plugin.figures import Figures, open_history
from lifsea_testbed.plugin.hooks import Extensions
from lifsea_testbed.plugin.judges import COLLECTED, JudgeRegistry
from lifsea_testbed.plugin.results import Results
from lifsea_testbed.plugin.shards import PLAN, ShardSelection, read_durations
from lifsea_testbed.plugin.time_limit import ThreadTimeLimit
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.report import allure, github, known_issues, terminal
from lifsea_testbed.report.collector import Collector
from lifsea_testbed.report.directory import ReportsDirectory
from lifsea_testbed.report.document import Document, Verdict
from lifsea_testbed.report.known_issues import KnownIssueList
from lifsea_testbed.report.signature import PASSWORD, Signer
from lifsea_testbed.report.terminal import Spinner
from lifsea_testbed.support import private_dir, steps
from lifsea_testbed.support.confinement import isolation
from lifsea_testbed.support.host_use import HostUse
from lifsea_testbed.support.sanitize import log_line, printable
from lifsea_testbed.upgrade.tools import require_tool

if TYPE_CHECKING:
    from lifsea_testbed.perf.history import History

#: The directory of Allure's results where its plugin is switched off.
_NO_ALLURE = ""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The checked inputs of a run: its context, the known issues; in the main process signer, history and reports."""

    context: RunContext
    known: KnownIssueList
    signer: Signer | None
    history: History | None
    directory: ReportsDirectory | None

    @classmethod
    def check(cls, config: pytest.Config) -> Inputs:
        """Checks the command line; a worker receives the context from the controller.

        Raises:
            pytest.UsageError: an option is bad, or the host cannot do it; nothing was started.
        """
        try:
            _require_text(config.invocation_params.args)
            signer = _signer(config)
            files = known_issues.files(_known_issues(config), options.of(config).profile)
            known = known_issues.load(files, on=known_issues.today())
            context = xdist.receive_context(config) or _context(config)
            history = open_history(config)
            directory = None if xdist.is_worker(config) else _directory(context.reports)
            if directory:
                context = replace(context, reports=directory.work, published=directory.path)
            return cls(context=context, known=known, signer=signer, history=history, directory=directory)
        except (CallerError, HostError) as error:
            raise pytest.UsageError(_refusal(config, error)) from None


class Session:
    """The part of a run in one process; the main process also collects all outcomes and settles the verdict."""

    def __init__(self, config: pytest.Config, inputs: Inputs) -> None:
        self._config = config
        self.context = inputs.context
        self.extensions = Extensions.collect(config)
        self._spinner = None if xdist.is_worker(config) else Spinner(self._write_line)
        self.factory = MachineFactory(self.context, announce=self._announce,
                                      access_methods=self.extensions.access_methods,
                                      guest_subjects=self.extensions.guest_subjects)  # fmt: skip
        self.pool = MachinePool(self.factory, SnapshotCache(snapshot_cache.directory()), cold=options.of(config).cold,
                                keeps=options.of(config).keep == "on-failure")  # fmt: skip
        self._collector = None if inputs.directory is None else Collector(
            self.context, inputs.directory, inputs.known, version=printable(options.of(config).image_version),
            flaky_fails=bool(getattr(config.option, "fail_on_flaky", False)))  # fmt: skip
        self.host = HostUse(applies=self.context.accelerator.kind is AcceleratorKind.KVM, announce=self._announce)
        self.controller = xdist.Controller(config, self.context)
        self.judges = JudgeRegistry(config)
        self.figures = Figures(config, self.factory, inputs.history)
        shard, durations = self.context.shard, self.context.durations
        self.shard = ShardSelection(shard, durations) if shard else None
        self.results = Results(config, self.pool, inputs.known, self._collector, self._spinner)
        self._signer = inputs.signer
        self.ending = Ending(config, self.context, self._collector, inputs.directory, release=self.end,
                             lines=self.results.lines) if self._collector and inputs.directory else None  # fmt: skip

    @classmethod
    def start(cls, config: pytest.Config) -> Session:
        """Checks the command line, starts the session, and registers its parts as plugins of pytest.

        Raises:
            pytest.UsageError: an option is bad, or the host cannot do it; nothing was started.
        """
        inputs = Inputs.check(config)
        if getattr(config.option, "allure_report_dir", _NO_ALLURE) is None:
            config.option.allure_report_dir = str(inputs.context.reports / "allure")
            config.option.clean_alluredir = True
        session = cls(config, inputs)
        try:
            session.require_extensions()
        except CallerError as error:
            session.abandon()
            raise pytest.UsageError(printable(error.one_line)) from None
        limit = ThreadTimeLimit(session.ending.expire) if session.ending else None
        for part in (session, session.ending, limit, session.results, session.judges, session.controller,
                     session.shard, session.figures):  # fmt: skip
            if part is not None:
                config.pluginmanager.register(part)
        return session

    def require_extensions(self) -> None:
        """Makes sure that the access methods and the upgrade tool named by the profile exist.

        Raises:
            ProfileRefused: one is neither built in nor registered by a plugin.
        """
        require_methods(self.factory.profile.access, self.extensions.access_methods)
        require_tool(self.factory.profile.upgrades, self.extensions.upgrade_tools)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Waits while another process has this host to itself; tests share it with those of other processes."""
        self.host.share()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Lets timed tests of other processes begin between two tests of this one."""
        try:
            return (yield)
        finally:
            self.host.leave()

    def abandon(self) -> None:
        """Ends a run that is refused after all; the reports of the run before stay."""
        self.end()
        if self.ending:
            self.ending.directory.close()

    def end(self) -> None:
        """Gives back what the session holds."""
        self.pool.close()
        self.factory.close()
        self.host.close()
        steps.listen()
        if self._spinner:
            self._spinner.close()
        if self.ending:
            self.controller.end_workers()
            private_dir.clean()  # a worker that died did not remove its machines' directory

    def pytest_report_header(self) -> list[str]:
        """Returns the lines on the image, the hardware, and how machines are made."""
        context = self.context
        lines = [
            f"image: {context.image.path} ({context.image.format}, {context.image.file_size >> 20} MiB), "
            f"profile {context.profile} ({printable(context.profile_reason)})",
            f"instance: {context.instance_type.name}, {context.memory} MiB, accelerator {context.accelerator}",
            f"firmware: {context.firmware} ({printable(context.firmware_reason)})",
        ]
        if context.accelerator.kind is AcceleratorKind.TCG and not context.emulator.threads_are_sound:
            lines.append(f"WARNING: QEMU {context.emulator.version} emulates all processors on one thread, for a bug "
                         "of its own; 8.1 and later are faster")  # fmt: skip
        if context.accelerator.kind is AcceleratorKind.KVM and context.accelerator.other_pace:
            lines.append(f"WARNING: {context.accelerator.other_pace}: the clock does not judge the boot time")
        if context.removed:
            lines.append(f"removed what dead runs had left: {', '.join(map(str, context.removed))}")
        confinement = isolation()
        if not confinement.is_full:
            lines.append(f"WARNING: QEMU is confined less than it could be: {confinement} (lifsea-testbed doctor)")
        lines.append(f"machines: booted, not restored: {self.pool.why_cold}" if self.pool.why_cold else
                     f"machines: restored from a snapshot in {snapshot_cache.directory()}")  # fmt: skip
        if context.memory_is_short:
            lines.append(f"WARNING: {context.memory} MiB instead of {context.instance_type.memory}: "
                         "the host has no more to give")  # fmt: skip
        return lines

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Settles the verdict, makes it the exit status, and writes every report."""
        if self.ending is None or self._collector is None or exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        document = self._settle(self._collector, self.ending, exitstatus)
        if self._signer:
            self._signer.sign(self._collector.path, document)
        session.exitstatus = document.exit_status
        github.add_summary(document, os.environ)
        if folder := getattr(self._config.option, "allure_report_dir", _NO_ALLURE):
            allure.prepare(document, self.context.reports, Path(folder))
        self._config.hook.pytest_lifsea_report(document=document, reports=self.context.reports)
        self.ending.document = document

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints the status of each claim."""
        if self.ending is None or self.ending.document is None:
            return
        terminalreporter.section("claims")
        for line, colour in terminal.lines(self.ending.document, terminalreporter._tw.fullwidth):
            terminalreporter.write_line(log_line(line), **{colour: True})

    def _settle(self, collector: Collector, ending: Ending, exitstatus: int) -> Document:
        """Returns the document of the finished run; an early end of pytest or a worker is a trouble of the test bed."""
        judges = self.judges.by_claim(self.controller.results.get(COLLECTED, ""))
        judged = self.figures.finish(collector.flakes)
        stopped = ending.stopped(exitstatus)
        document = collector.finish(
            [*self.judges.troubles, *stopped, *self.controller.troubles, *self.results.troubles, *judged.troubles],
            judged.failures, plan=self._plan, findings=judged.findings, judges=judges, interrupted=ending.interrupted,
        )  # fmt: skip
        if exitstatus == pytest.ExitCode.TESTS_FAILED and document.verdict in (Verdict.PASS, Verdict.NOT_JUDGED):
            return collector.break_off("pytest counts a failure that no test of this run explains")
        return document

    @property
    def _plan(self) -> str:
        """The digest of the assignment to shards; with workers, they alone collect the tests."""
        return (self.shard.plan or self.controller.results.get(PLAN, "")) if self.shard else ""

    def _announce(self, line: str) -> None:
        if self._spinner and getattr(self._config.option, "verbose", 0) >= 0:
            self._spinner.show(log_line(line).replace("\n", " "))

    def _write_line(self, line: str) -> None:
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if reporter is not None:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(f"  {line}")


def _context(config: pytest.Config) -> RunContext:
    option = options.of(config)
    return preflight.run_context(
        image=option.image, next_image=option.next_image, profile=option.profile, instance_type=option.instance_type,
        accelerator=option.accel, reports=Path(option.reports).resolve(), claims=option.claim, shard=option.shard,
        required=[word.strip() for words in option.require for word in words.split(",")],
        known_issues=_known_issues(config), dump_memory=option.dump_memory,
        workers=xdist.workers(config), data_disk=option.data_disk, firmware=option.firmware,
        durations=read_durations(map(Path, option.shard_durations)) if option.shard else {},
    )  # fmt: skip


def _directory(path: Path) -> ReportsDirectory:
    """The directory of the reports, which other runs cannot use from now on.

    Raises:
        CallerError: another run uses it, or it cannot be written.
    """
    try:
        return ReportsDirectory(path)
    except OSError as error:
        raise CallerError(f"--reports {path}: cannot be written: {error.strerror}", hint="choose another directory") \
            from None


def _known_issues(config: pytest.Config) -> list[Path]:
    return [Path(path).resolve() for path in options.of(config).known_issues]


def _require_text(arguments: Iterable[object]) -> None:
    """Refuses arguments that no report can hold: file names in another encoding.

    Raises:
        CallerError: an argument is not UTF-8.
    """
    for argument in map(str, arguments):
        if argument.encode("utf-8", "replace").decode() != argument:
            raise CallerError(f"{argument!r}: not UTF-8, as the text of every report is", hint="rename the file")


def _signer(config: pytest.Config) -> Signer | None:
    """Returns the signer of the verdict, in the main process, if --sign-with was given."""
    path = options.of(config).sign_with
    if path is None or xdist.is_worker(config):
        return None
    return Signer(Path(path), os.environ.get(PASSWORD, ""))


def _refusal(config: pytest.Config, error: CallerError | HostError) -> str:
    """The error in one line, with the option in front that named the file which it is about."""
    signs = [("--sign-with", Path(options.of(config).sign_with))] if options.of(config).sign_with else []
    named = [*signs, *(("--known-issues", path) for path in _known_issues(config))]
    option = next((f"{option} " for option, path in named if error.happened.startswith(f"{path}: ")), "")
    return printable(f"{option}{error.one_line}")
