"""What pytest prints of a test, made safe for a CI system's log, which takes some lines for commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lifsea_testbed.support.sanitize import log_line, log_lines, log_text, printable

#: Sections that the test bed writes: paths and commands, which are copied from there.
OURS = frozenset({"kept", "more"})
_NATIVE = "native"


def clean(report: pytest.TestReport) -> None:
    """Shows control and invisible characters in the report's texts as escapes: no writer of a report fails on them."""
    _rewrite(report, whole=printable, line=printable, output=lambda name, text: printable(text))


def disarm(report: pytest.TestReport) -> None:
    """Replaces what the report shows of a test, so that no line of it is a command; reports on disk keep the words.

    Each line of captured output, of a console, and of an explanation begins with a bar. The lines of a traceback begin
    with pytest's own marks, or are source code.
    """
    _rewrite(report, whole=log_lines, line=log_line,
             output=lambda name, text: log_line(text) if name in OURS else log_text(text))  # fmt: skip


def _rewrite(report: pytest.TestReport, *, whole: Callable[[str], str], line: Callable[[str], str],
             output: Callable[[str, str], str]) -> None:
    """Rewrites an explanation as a whole, a traceback line by line, and output, of a section with its name."""
    report.sections = [(line(name), output(name, text)) for name, text in report.sections]
    shown: Any = report.longrepr
    if isinstance(shown, str):
        report.longrepr = whole(shown)
    elif isinstance(shown, tuple):
        path, number, why = shown
        report.longrepr = path, number, line(why).replace("\n", " ")
    for entry in _entries(shown):
        # Python's own traceback, of an exception that was never raised or by --tb=native: pieces of one text.
        entry.lines = [output("", "".join(entry.lines))] if entry.style == _NATIVE else list(map(line, entry.lines))
    if crash := getattr(shown, "reprcrash", None):
        crash.message = whole(crash.message)  # in CI, pytest's summary has all of it


def _entries(shown: Any) -> list[Any]:
    """The entries of the tracebacks of an exception and of its causes."""
    chain = getattr(shown, "chain", None) or [(getattr(shown, "reprtraceback", None), None, None)]
    return [entry for traceback, *_ in chain if traceback for entry in traceback.reprentries]
