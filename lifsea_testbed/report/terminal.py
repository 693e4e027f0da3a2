"""What a person reads at the end of a run: the claims, in as many lines as a small screen has."""

from __future__ import annotations

from collections.abc import Iterator

from lifsea_testbed.report.document import Document
from lifsea_testbed.report.gate import counted
from lifsea_testbed.report.known_issues import State
from lifsea_testbed.report.outcome import Status

#: So many claims, and so many known issues, have a line of their own; with the rest of the summary that is 24 lines.
_CLAIMS, _ISSUES = 12, 4
_COLOURS = {Status.PASSED: "green", Status.NOT_JUDGED: "yellow", Status.KNOWN: "yellow", Status.FLAKY: "yellow"}


def lines(document: Document, width: int) -> Iterator[tuple[str, str]]:
    """Yields each line and its colour: the claims that are not simply kept, the worst first, cut to the width."""
    loud = sorted((claim for claim in document.claims if not claim.status.is_quiet),
                  key=lambda claim: claim.status.gravity)  # fmt: skip
    for claim in loud[:_CLAIMS]:
        yield _cut(f"{claim.status:>10}  {claim.id}  {claim.why}", width), _COLOURS.get(claim.status, "red")
    if len(loud) > _CLAIMS:
        yield f"{'':>10}  and {len(loud) - _CLAIMS} more, in gate.json", "yellow"
    if kept := sum(claim.status.is_quiet for claim in document.claims):
        yield f"{Status.PASSED:>10}  {kept} claims", "green"
    yield from _issues(document, width)


def verdict(document: Document, place: str) -> str:
    """Returns the last line of a run."""
    return (f"verdict: {document.verdict} - {document.profile}: {counted(document.claims)} of {len(document.claims)} "
            f"claims; {document.why} ({place})")  # fmt: skip


def _issues(document: Document, width: int) -> Iterator[tuple[str, str]]:
    issues = document.known_issues.issues if document.known_issues else []
    gone = [issue for issue in issues if issue.state is State.GONE]
    for issue in gone[:_ISSUES]:
        yield _cut(f"{issue.state:>10}  {issue.claim}  remove the known issue {issue.link}", width), "yellow"
    if len(gone) > _ISSUES:
        yield f"{'':>10}  and {len(gone) - _ISSUES} more that are gone, in gate.json", "yellow"


def _cut(line: str, width: int) -> str:
    line = line.replace("\n", " ")
    return line if len(line) <= width else f"{line[: width - 1]}…"
