"""The terminal: progress while a machine boots, and a summary of the claims that fits a small screen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lifsea_testbed.report.document import Document, IssueState
from lifsea_testbed.report.gate import counted, hardware_counted, headline, late_look, one_road
from lifsea_testbed.report.outcome import Status

#: The number of claims and of known issues with a line of their own; the whole summary has 24 lines.
_CLAIMS, _ISSUES = 12, 4
_COLOURS = {Status.PASSED: "green", Status.NOT_JUDGED: "yellow", Status.KNOWN: "yellow", Status.FLAKY: "yellow"}


def lines(document: Document, width: int) -> Iterator[tuple[str, str]]:
    """Yields each line and its colour: the claims that did not simply pass, the worst first, cut to the width."""
    loud = sorted((claim for claim in document.claims if not claim.status.is_quiet),
                  key=lambda claim: claim.status.gravity)  # fmt: skip
    for claim in loud[:_CLAIMS]:
        reason = f" ({claim.reason})" if claim.reason else ""
        yield _cut(f"{claim.status:>10}  {claim.id}{reason}  {claim.why}", width), _COLOURS.get(claim.status, "red")
    if len(loud) > _CLAIMS:
        yield f"{'':>10}  and {len(loud) - _CLAIMS} more, in gate.json", "yellow"
    if kept := sum(claim.status.is_quiet for claim in document.claims):
        yield f"{Status.PASSED:>10}  {kept} claims", "green"
    if late := late_look(document.claims):
        yield _cut(f"{'':>10}  {late}", width), "green"
    if single := one_road(document.claims):
        yield _cut(f"{'':>10}  {single}", width), "yellow"
    if tests := document.hardware:
        worst = min((test.status for test in tests), key=lambda status: status.gravity)
        yield _cut(f"hardware model: {hardware_counted(tests)}", width), _COLOURS.get(worst, "red")
    yield from _issues(document, width)


def verdict(document: Document, place: str) -> str:
    """Returns the last line of the output of a run."""
    return (f"verdict: {headline(document)} - {document.profile}: {counted(document.claims)} of {len(document.claims)} "
            f"claims; {document.why} ({place})")  # fmt: skip


def _issues(document: Document, width: int) -> Iterator[tuple[str, str]]:
    issues = document.known_issues.issues if document.known_issues else []
    gone = [issue for issue in issues if issue.state is IssueState.GONE]
    for issue in gone[:_ISSUES]:
        yield _cut(f"{issue.state:>10}  {issue.claim}  remove the known issue {issue.link}", width), "yellow"
    if len(gone) > _ISSUES:
        yield f"{'':>10}  and {len(gone) - _ISSUES} more that are gone, in gate.json", "yellow"


def _cut(line: str, width: int) -> str:
    line = line.replace("\n", " ")
    return line if len(line) <= width else f"{line[: width - 1]}…"


class Spinner:
    """A line at the end of the terminal with the current step and its duration, removed when it stops.

    It writes to a duplicate of standard output, so that a later capture by pytest does not affect it.
    """

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._console = Console(file=self._file)
        self._progress: Progress | None = None

    def show(self, line: str) -> None:
        """Shows a step, in place of the one before."""
        if not self._console.is_terminal:
            self._write_line(line)
            return
        self.stop()
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        self._progress = Progress(*columns, console=self._console, transient=True, redirect_stdout=False,
                                  redirect_stderr=False)  # fmt: skip
        self._progress.add_task(line, total=None)
        self._progress.start()

    def stop(self) -> None:
        """Removes the line."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def close(self) -> None:
        """Removes the line and closes the duplicate of standard output."""
        self.stop()
        self._file.close()
