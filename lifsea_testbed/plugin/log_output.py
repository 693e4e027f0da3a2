"""What pytest prints of a test, made safe for a CI system's log, which takes some lines for commands."""

from __future__ import annotations

from typing import Any

import pytest

from lifsea_testbed.support.sanitize import log_line, log_lines, log_text

#: Sections that the test bed writes: paths and commands, which are copied from there.
OURS = frozenset({"kept", "more"})


def disarm(report: pytest.TestReport) -> None:
    """Replaces what the report shows of a test, so that no line of it is a command; reports on disk keep the words.

    Each line of captured output, of a console, and of an explanation begins with a bar. The lines of a traceback begin
    with pytest's own marks, or are source code.
    """
    report.sections = [(log_line(name), log_line(text) if name in OURS else log_text(text))
                       for name, text in report.sections]  # fmt: skip
    shown: Any = report.longrepr
    if isinstance(shown, str):
        report.longrepr = log_lines(shown)
    elif isinstance(shown, tuple):
        path, line, why = shown
        report.longrepr = path, line, log_line(why).replace("\n", " ")
    for entry in _entries(shown):
        entry.lines = [log_line(line) for line in entry.lines]
    if crash := getattr(shown, "reprcrash", None):
        crash.message = log_lines(crash.message)  # in CI, pytest's summary has all of it


def _entries(shown: Any) -> list[Any]:
    """The entries of the tracebacks of an exception and of its causes."""
    chain = getattr(shown, "chain", None) or [(getattr(shown, "reprtraceback", None), None, None)]
    return [entry for traceback, *_ in chain if traceback for entry in traceback.reprentries]
