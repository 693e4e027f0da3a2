"""GitHub Actions: annotations at the lines of the tests, and the job summary; no output elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lifsea_testbed.report import markdown
from lifsea_testbed.report.document import Document, TestRecord
from lifsea_testbed.report.outcome import Status, in_words
from lifsea_testbed.support.sinks import workflow_message, workflow_property

_LEVELS = {Status.FAILED: "error", Status.EXPIRED: "error", Status.BROKEN: "error", Status.KNOWN: "warning",
           Status.FLAKY: "warning", Status.NOT_JUDGED: "notice"}  # fmt: skip


def commands(document: Document, lines: Mapping[str, int], environment: Mapping[str, str]) -> Iterator[str]:
    """Yields a workflow command for each test that did not simply pass, with its line (from 1) if it is known.

    Source: GitHub's documentation, "Workflow commands for GitHub Actions", with its escapes.
    """
    if environment.get("GITHUB_ACTIONS") != "true":
        return
    tests = [(claim.id, test) for claim in document.claims for test in claim.tests]
    tests += [("no claim", test) for test in document.others] + [("hardware model", test) for test in document.hardware]
    for claim, test in tests:
        if not test.status.is_quiet:
            yield _command(claim, test, lines)


def add_summary(document: Document, environment: Mapping[str, str]) -> None:
    """Appends the document to the job's summary."""
    if path := environment.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(markdown.summary(document) + "\n")


def _command(claim: str, test: TestRecord, lines: Mapping[str, int]) -> str:
    place = {"file": test.id.partition("::")[0], "line": str(lines.get(test.id, 1)),
             "title": f"{in_words(test.status, test.reason)}: {claim}"}  # fmt: skip
    fields = ",".join(f"{name}={workflow_property(value)}" for name, value in place.items())
    return f"::{_LEVELS[test.status]} {fields}::{workflow_message(test.why or str(test.status))}"
