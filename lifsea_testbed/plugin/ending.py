"""The end of a run: exit status 1 says that the image broke a promise, and nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Mapping
from typing import IO, Any

import pytest

from lifsea_testbed.errors import Explained, HostError
from lifsea_testbed.machine.context import RunContext
from lifsea_testbed.plugin import fixtures, xdist
from lifsea_testbed.plugin.results import relative
from lifsea_testbed.plugin.stop_signals import StopSignals
from lifsea_testbed.report import github, terminal
from lifsea_testbed.report.collector import Collector
from lifsea_testbed.report.directory import GATE, ReportsDirectory
from lifsea_testbed.report.document import Document, Verdict
from lifsea_testbed.support.sanitize import log_line, printable

#: The exit statuses of pytest after which all is known: tests passed, tests failed, no test was selected.
_TO_THE_END = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
#: How long a run that is out of time waits until its machines and their files are gone (seconds).
_RELEASING = 20.0
_AT_THE_END = "the end of the run failed"


def concluded(config: pytest.Config) -> Generator[None, Any, Any]:
    """Yields to pytest's main function, and returns the exit status of the verdict instead of pytest's own.

    Raises:
        pytest.UsageError: bad input; no report was touched.
    """
    is_worker = xdist.is_worker(config)
    with StopSignals(is_worker=is_worker) as signals:
        status, error = pytest.ExitCode.INTERNAL_ERROR, None
        try:
            status = yield
        except pytest.UsageError:
            if run := fixtures.bound(config):
                run.abandon()
            raise
        except BaseException as raised:
            error = raised
        run = fixtures.bound(config)
        if run is None:
            return _not_started(status, error, signals.received)
        if run.ending:
            return run.ending.conclude(status, error)
        run.end()
        if error:
            raise error
        return status


class Ending:
    """The end of a run in the main process: its verdict, its reports in their place, its exit status.

    `release` gives back what the run holds; `lines` maps tests to their lines in their files. `document` is the verdict
    once it is settled, `interrupted` says who ended the run before, if anybody did.
    """

    def __init__(self, config: pytest.Config, context: RunContext, collector: Collector, directory: ReportsDirectory, *,
                 release: Callable[[], None], lines: Mapping[str, int]) -> None:
        self.directory = directory
        self.document: Document | None = None
        self.interrupted = ""
        self._config = config
        self._context = context
        self._collector = collector
        self._release = release
        self._lines = lines
        self._failed = ""

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Records that a signal or the user ended the run; --stepwise, -x and a failed collection are not that."""
        error = excinfo.value
        if type(error) is KeyboardInterrupt:
            self.interrupted = _reason(error, "")
        elif isinstance(error, pytest.exit.Exception):
            words = printable(f"pytest.exit: {error.msg}")
            self.interrupted, self._failed = (words, "") if error.returncode is None else ("", words)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Records what ended pytest."""
        self._failed = printable(repr(excinfo.value))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Breaks the run off if a plugin raises an exception at its end."""
        try:
            return (yield)
        except BaseException as error:
            session.exitstatus = self._break_off(error, _AT_THE_END).exit_status
            return None

    def stopped(self, status: int) -> list[str]:
        """Returns the trouble that pytest did not come to the end of its tests, if it did not by itself."""
        if self.interrupted or (status in _TO_THE_END and not self._failed):
            return []
        names = {code.value: code.name.lower() for code in pytest.ExitCode}
        why = ": ".join(filter(None, [names.get(status, f"exit status {status}"), self._failed]))
        return [f"pytest stopped early ({why})"]

    def conclude(self, status: int, error: BaseException | None) -> int:
        """Ends the run after pytest, which returned that status or raised that error, and returns its exit status.

        What the run holds is given back, the reports are put in their place, and the verdict is the last line.
        """
        if error is not None:
            self._break_off(error, _AT_THE_END)
        elif self.document is None:
            self._break_off(OSError(*self.stopped(status)), "the run did not start")
        elif status != self.document.exit_status:
            self._break_off(OSError(f"a plugin ended it with status {status}"), _AT_THE_END)
        self._attempt(self._release, _AT_THE_END)
        self._publish()
        return self._say()

    def expire(self, reason: str) -> None:
        """Ends the run and this process at once, for that reason, from any thread."""
        status = Verdict.BROKEN.exit_status
        try:
            self._break_off(HostError(reason), "the run was stopped")
            self._publish()
            status = self._say()
            releasing = threading.Thread(target=self._release, name="release", daemon=True)
            releasing.start()
            releasing.join(_RELEASING)
        finally:
            os._exit(status)

    def _attempt(self, step: Callable[[], None], happened: str) -> bool:
        """Does a step of the end, and returns whether it succeeded; if not, the run is broken, or interrupted."""
        try:
            step()
        except BaseException as error:
            self._break_off(error, happened)
            return False
        return True

    def _break_off(self, error: BaseException, happened: str) -> Document:
        if isinstance(error, KeyboardInterrupt):
            self.interrupted = self.interrupted or _reason(error, "")
        reason = self.interrupted or _reason(error, happened)
        self.document = self._collector.break_off(reason, interrupted=bool(self.interrupted))
        return self.document

    def _publish(self) -> None:
        """Puts the reports in their place; if there is no room for that, without their evidence."""
        tried = 0
        while not self._attempt(self.directory.publish, "the reports cannot be put in their place"):
            tried += 1
            if tried > 1 and not self.directory.make_room():
                break
        self.directory.close()

    def _say(self) -> int:
        """Prints the verdict and returns its exit status."""
        assert self.document is not None
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter and reporter._tw.width_of_current_line:
            _print("")
        for line in github.commands(self.document, self._lines, os.environ):
            _print(line)
        gate = self._context.destination / GATE
        is_there = self.directory.is_published and gate.is_file()
        place = relative(gate) if is_there else "no report could be written"
        _print(log_line(terminal.verdict(self.document, place)))
        return self.document.exit_status


def _not_started(status: int, error: BaseException | None, received: str) -> int:
    """The exit status of a run that ended before there was anything to judge."""
    if isinstance(error, KeyboardInterrupt) or (error is None and status == pytest.ExitCode.INTERRUPTED):
        verdict, why = Verdict.INTERRUPTED, f"{received or 'the user'} ended the run before anything was judged"
    else:
        verdict, why = Verdict.BROKEN, "the run did not start"
        if error is not None:
            why = _reason(error, why)
    _print(log_line(f"verdict: {verdict} - {why}; the reports of earlier runs stay"))
    return verdict.exit_status


def _reason(error: BaseException, happened: str) -> str:
    """The trouble that `error` is, in one line; prints the traceback of one that is a defect of a program."""
    if isinstance(error, KeyboardInterrupt):
        return f"{error or 'the user'} ended the run"
    if not isinstance(error, OSError | Explained):
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error)
    return printable(f"{happened}: {error!r}")


def _print(line: str) -> None:
    """Prints a line on standard output, which becomes standard error if it is lost."""
    for stream in (sys.stdout, sys.stderr):
        try:
            encoding = stream.encoding or "utf-8"
            print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
            return
        except (OSError, ValueError):
            _silence(stream)
            sys.stdout = sys.stderr


def _silence(stream: IO[str]) -> None:
    """Sends what a stream that cannot be written has in its buffer nowhere: Python would end with another status."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
