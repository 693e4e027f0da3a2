"""A run as Markdown: reports/summary.md, and the job summary of GitHub."""

from __future__ import annotations

from lifsea_testbed.report.document import ClaimRecord, Document, IssueState, KnownIssues, TestRecord, Verdict
from lifsea_testbed.report.gate import counted, hardware_counted, headline, late_look, one_road
from lifsea_testbed.report.outcome import in_words
from lifsea_testbed.support.sinks import markdown, markdown_link

_MARKS = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.BROKEN: "💥", Verdict.NOT_JUDGED: "❔",
          Verdict.INTERRUPTED: "⏹️"}  # fmt: skip
_LONGEST = 300


def summary(document: Document) -> str:
    """Returns the document in Markdown; texts of the image stand in code spans."""
    image = document.image
    version = f" {markdown(image.version)}" if image.version else ""
    subject = f"{markdown(image.name)}{version} ({markdown(document.profile)})"
    lines = [
        f"## {_MARKS[document.verdict]} {headline(document)}: {subject}",
        "", f"{markdown(document.why)}.", "",
        f"{counted(document.claims)} of {len(document.claims)} claims · sha256 `{image.sha256[:16]}…` · "
        f"{markdown(document.instance_type)} · {document.firmware} · "
        f"{', '.join(markdown(run.accelerator) for run in document.runs)}", "",
    ]  # fmt: skip
    loud = sorted((claim for claim in document.claims if not claim.status.is_quiet),
                  key=lambda claim: claim.status.gravity)  # fmt: skip
    if loud:
        lines += ["| claim | | whose fault | why |", "|---|---|---|---|", *map(_row, loud), ""]
    if kept := [claim.id for claim in document.claims if claim.status.is_quiet]:
        lines += ["<details><summary>passed</summary>", "", ", ".join(map(markdown, kept)), "", "</details>", ""]
    if late := late_look(document.claims):
        lines += [f"{late}.", ""]
    if single := one_road(document.claims):
        lines += [f"{markdown(single)}.", ""]
    lines += _hardware(document.hardware) if document.hardware else []
    return "\n".join([*lines, *(_issues(document.known_issues) if document.known_issues else [])])


def _hardware(tests: list[TestRecord]) -> list[str]:
    """The tests of the test bed's own model, which say nothing about the image."""
    rows = [f"| {markdown(test.id)} | {in_words(test.status, test.reason)} | {markdown(test.why[:_LONGEST])} |"
            for test in tests if not test.status.is_quiet]  # fmt: skip
    table = ["| test | | why |", "|---|---|---|", *rows, ""] if rows else []
    return ["### Hardware model", "", f"{hardware_counted(tests)}.", "", *table]


def _row(claim: ClaimRecord) -> str:
    return (f"| {markdown(claim.id)} | {in_words(claim.status, claim.reason)} | {claim.blame or ''} | "
            f"{markdown(claim.why[:_LONGEST])} |")  # fmt: skip


def _issues(known: KnownIssues) -> list[str]:
    notes = {IssueState.GONE: " – remove it from the file"}
    lines = [f"| {markdown_link(issue.link)} | {markdown(issue.claim)} | {markdown(issue.owner)} | "
             f"{markdown(issue.expires)} | {issue.extensions} | {issue.state}{notes.get(issue.state, '')} |"
             for issue in known.issues]  # fmt: skip
    return [f"### Known issues on {markdown(known.as_of)}", "", "| issue | claim | owner | until | extended | |",
            "|---|---|---|---|---|---|", *lines, ""]
