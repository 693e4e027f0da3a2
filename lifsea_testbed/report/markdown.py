"""A run as Markdown: reports/summary.md, and the job summary of GitHub."""

from __future__ import annotations

import re

from lifsea_testbed.report.document import ClaimRecord, Document, IssueState, KnownIssues, TestRecord, Verdict
from lifsea_testbed.report.gate import counted, hardware_counted, headline, late_look
from lifsea_testbed.report.outcome import in_words

_MARKS = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.BROKEN: "💥", Verdict.NOT_JUDGED: "❔",
          Verdict.INTERRUPTED: "⏹️"}  # fmt: skip
#: Characters with a meaning in Markdown, GitHub's HTML or a table cell; an @name would notify a user.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~@&])")
_LONGEST = 300


def summary(document: Document) -> str:
    """Returns the document in Markdown; texts of the image are escaped."""
    image = document.image
    version = f" {_text(image.version)}" if image.version else ""
    lines = [
        f"## {_MARKS[document.verdict]} {headline(document)}: {_text(image.name)}{version} ({_text(document.profile)})",
        "", f"{_text(document.why)}.", "",
        f"{counted(document.claims)} of {len(document.claims)} claims · sha256 `{image.sha256[:16]}…` · "
        f"{_text(document.instance_type)} · {', '.join(run.accelerator for run in document.runs)}", "",
    ]  # fmt: skip
    loud = sorted((claim for claim in document.claims if not claim.status.is_quiet),
                  key=lambda claim: claim.status.gravity)  # fmt: skip
    if loud:
        lines += ["| claim | | whose fault | why |", "|---|---|---|---|", *map(_row, loud), ""]
    if kept := [claim.id for claim in document.claims if claim.status.is_quiet]:
        lines += ["<details><summary>passed</summary>", "", ", ".join(map(_text, kept)), "", "</details>", ""]
    if late := late_look(document.claims):
        lines += [f"{late}.", ""]
    lines += _hardware(document.hardware) if document.hardware else []
    return "\n".join([*lines, *(_issues(document.known_issues) if document.known_issues else [])])


def _hardware(tests: list[TestRecord]) -> list[str]:
    """The tests of the test bed's own model, which say nothing about the image."""
    rows = [f"| {_text(test.id)} | {in_words(test.status, test.reason)} | {_text(test.why[:_LONGEST])} |"
            for test in tests if not test.status.is_quiet]  # fmt: skip
    table = ["| test | | why |", "|---|---|---|", *rows, ""] if rows else []
    return ["### Hardware model", "", f"{hardware_counted(tests)}.", "", *table]


def _row(claim: ClaimRecord) -> str:
    return (f"| {_text(claim.id)} | {in_words(claim.status, claim.reason)} | {claim.blame or ''} | "
            f"{_text(claim.why[:_LONGEST])} |")  # fmt: skip


def _issues(known: KnownIssues) -> list[str]:
    notes = {IssueState.GONE: " – remove it from the file"}
    lines = [f"| {_text(issue.link)} | {_text(issue.claim)} | {_text(issue.owner)} | {issue.expires} | "
             f"{issue.extensions} | {issue.state}{notes.get(issue.state, '')} |" for issue in known.issues]  # fmt: skip
    return [f"### Known issues on {known.as_of}", "", "| issue | claim | owner | until | extended | |",
            "|---|---|---|---|---|---|", *lines, ""]


def _text(value: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(value.split())).replace("\\&", "&amp;").replace("\\<", "&lt;")
