"""What a run makes of the known issues: failures that they explain, and issues that are gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lifsea_testbed.report.document import ClaimRecord, IssueRecord, KnownIssues
from lifsea_testbed.report.known_issues import Issue, Known, State
from lifsea_testbed.report.outcome import Judgement, Status


def excuse(judgement: Judgement, known: Known, *, claim: str, profile: str, version: str, text: str) -> Judgement:
    """Returns the judgement on a failure, given its text, once the known issues were asked; others stay as they are."""
    match = known.match(claim=claim, profile=profile, version=version, text=text)
    if judgement.status is not Status.FAILED or match is None:
        return judgement
    issue = match.issue
    if match.expired:
        why = f"known issue expired on {issue.end} ({issue.link}, {issue.owner}): {judgement.why}"
        return replace(judgement, status=Status.EXPIRED, why=why, issue=issue.link)
    why = f"known issue until {issue.end}{_extended(issue)} ({issue.link}, {issue.owner}): {judgement.why}"
    return replace(judgement, status=Status.KNOWN, why=why, issue=issue.link)


def record(known: Known, claims: Iterable[ClaimRecord], *, profile: str, version: str) -> KnownIssues | None:
    """Returns what became of each known issue; nothing if none were given."""
    by_id = {claim.id: claim for claim in claims}
    records = [
        IssueRecord(claim=issue.claim, link=issue.link, owner=issue.owner, since=str(issue.since),
                    expires=str(issue.end), extensions=len(issue.extensions),
                    state=_state(issue, by_id.get(issue.claim), profile, version))
        for issue in known.issues
    ]  # fmt: skip
    return KnownIssues(as_of=str(known.today), issues=records) if records else None


def _state(issue: Issue, claim: ClaimRecord | None, profile: str, version: str) -> State:
    if claim is None or not issue.is_of(profile, version):
        return State.NOT_APPLICABLE
    seen = {test.status for test in claim.tests if test.issue == issue.link}
    if seen:
        return State.EXPIRED if Status.EXPIRED in seen else State.SEEN
    return State.GONE if claim.status.is_kept else State.NOT_SEEN


def _extended(issue: Issue) -> str:
    times = len(issue.extensions)
    return f", extended {'once' if times == 1 else f'{times} times'}" if times else ""
