"""The gate: one verdict on the claims of a profile, from the outcomes of all tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lifsea_testbed.errors import Blame
from lifsea_testbed.report.document import Attempt, ClaimRecord, Figure, TestRecord, Verdict
from lifsea_testbed.report.outcome import Status


@dataclass(frozen=True, kw_only=True)
class TestOutcome:
    """The outcome of one attempt at one test, of a claim or of none; `issue` is the link of a known issue."""

    __test__ = False  # pytest would otherwise take the name for a test class

    test: str
    status: Status
    claim: str = ""
    why: str = ""
    blame: str = ""
    issue: str = ""
    attempt: int = 1
    evidence: str = ""

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> TestOutcome:
        """Reads the fields of an outcome (`dataclasses.asdict`) after they went through JSON."""
        return cls(**{**fields, "status": Status(fields["status"])})  # type: ignore[arg-type]


#: The number of claims named in the verdict's line; gate.json has them all.
_NAMED = 8
NOT_RUN = "no test of it was run"


def records(outcomes: Iterable[TestOutcome]) -> list[TestRecord]:
    """Returns the result of each test, in order of their names."""
    by_test: dict[str, list[TestOutcome]] = {}
    for outcome in outcomes:
        by_test.setdefault(outcome.test, []).append(outcome)
    return [_record(test, by_test[test]) for test in sorted(by_test)]


def settle(claims: Mapping[str, str], outcomes: Iterable[TestOutcome],
           figures: Iterable[Figure] = ()) -> list[ClaimRecord]:
    """Returns the result of each claim (identifier → promise), in that order; the worst test decides."""
    by_claim: dict[str, list[TestOutcome]] = {claim: [] for claim in claims}
    for outcome in outcomes:
        by_claim.setdefault(outcome.claim, []).append(outcome)
    figures = list(figures)
    return [judged(claim, promise, records(by_claim[claim]), figures) for claim, promise in claims.items()]


def judged(claim: str, promise: str, tests: list[TestRecord], figures: Iterable[Figure] = ()) -> ClaimRecord:
    """Returns the result of one claim by its tests."""
    if not tests:
        return ClaimRecord(id=claim, promise=promise, status=Status.NOT_JUDGED, why=NOT_RUN)
    worst = min(tests, key=lambda test: test.status.gravity)
    names = {test.id for test in tests}
    return ClaimRecord(
        id=claim, promise=promise, status=worst.status, why=worst.why, blame=worst.blame, issue=worst.issue,
        evidence=[folder for test in tests for folder in test.evidence], tests=tests,
        figures=sorted((figure for figure in figures if figure.test in names), key=lambda figure: figure.test),
    )  # fmt: skip


def conclude(claims: Iterable[ClaimRecord], *, others: Iterable[TestRecord] = (), troubles: Iterable[str] = (),
             failures: Iterable[str] = (), selected: Collection[str] = (), parts: Collection[str] = ()
             ) -> tuple[Verdict, str]:
    """Returns the verdict and its reason in one line.

    A failed claim, a failed test of no claim, or a failure outside the tests makes it *fail*. A broken claim or test, a
    claim without a test, or a trouble of the run itself makes it *broken*: only judged claims pass. A claim that this
    host cannot judge passes, and so does a known one; but if nothing at all was judged, if only some claims were
    selected, or if `parts` names parts of the image that are still open, the best verdict is *not judged*.
    """
    claims, others, troubles, failures = list(claims), list(others), list(troubles), list(failures)
    wrong = [*_lines("not kept", [claim.id for claim in claims if claim.status.is_failure]),
             *_lines("failed beside the claims", [test.id for test in others if test.status.is_failure]), *failures]
    if wrong:
        return Verdict.FAIL, "; ".join([*wrong, *parts])
    broken = [claim.id for claim in claims if claim.status is Status.BROKEN]
    broken += [test.id for test in others if test.status is Status.BROKEN]
    if broken or troubles:
        return Verdict.BROKEN, "; ".join([*troubles, *_lines("broken", broken), *parts])
    if selected and not claims:
        return Verdict.BROKEN, "the profile makes none of the claims that were selected"
    if parts:
        return Verdict.NOT_JUDGED, "; ".join(parts)
    if missing := [claim.id for claim in claims if claim.why == NOT_RUN]:
        return Verdict.BROKEN, f"not run: {_named(missing)}"
    if selected:
        return Verdict.NOT_JUDGED, f"only {_named(list(selected))} was judged; every other claim is open"
    if all(claim.status is Status.NOT_JUDGED for claim in claims):
        return Verdict.NOT_JUDGED, "no claim could be judged"
    return Verdict.PASS, "; ".join(["every claim is kept, known, or cannot be judged on this host", *_notes(claims)])


def counted(results: Iterable[ClaimRecord]) -> str:
    """Returns how many claims have each status, as text."""
    statuses = [result.status for result in results]
    order = [Status.PASSED, *(status for status in Status if status is not Status.PASSED)]
    return ", ".join(f"{statuses.count(status)} {status}" for status in order if status in statuses)


def _notes(claims: list[ClaimRecord]) -> list[str]:
    """The claims that pass the gate but are always listed: known and flaky ones."""
    return [line for status in (Status.KNOWN, Status.FLAKY)
            for line in _lines(status, [claim.id for claim in claims if claim.status is status])]  # fmt: skip


def _lines(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {_named(names)}"] if names else []


def _named(claims: list[str]) -> str:
    return ", ".join(claims[:_NAMED]) + (f" and {len(claims) - _NAMED} more" if len(claims) > _NAMED else "")


def _record(test: str, outcomes: list[TestOutcome]) -> TestRecord:
    by_attempt: dict[int, list[TestOutcome]] = {}
    for outcome in outcomes:
        by_attempt.setdefault(outcome.attempt, []).append(outcome)
    worst = [min(by_attempt[number], key=lambda outcome: outcome.status.gravity) for number in sorted(by_attempt)]
    status, why, last = worst[-1].status, worst[-1].why, worst[-1]
    if status is Status.PASSED and len(worst) > 1:
        status, last = Status.FLAKY, worst[0]
        why = f"passed at attempt {len(worst)}; attempt 1 {worst[0].status}: {worst[0].why}"
    return TestRecord(
        id=test, status=status, why=why, blame=_blame(last), issue=last.issue,
        attempts=[Attempt(status=each.status, why=each.why, blame=_blame(each)) for each in worst],
        evidence=sorted({outcome.evidence for outcome in outcomes if outcome.evidence}),
    )  # fmt: skip


def _blame(outcome: TestOutcome) -> Blame | None:
    return Blame(outcome.blame) if outcome.blame else None
