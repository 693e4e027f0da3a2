"""The gate: one verdict on the claims of a profile, from the outcomes of all tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lifsea_testbed.errors import Blame, Reason
from lifsea_testbed.report.document import Attempt, ClaimRecord, Document, Figure, TestRecord, Verdict
from lifsea_testbed.report.outcome import REASONS, Status, worst_reason


@dataclass(frozen=True, kw_only=True)
class TestOutcome:
    """The outcome of one attempt at one test, of a claim or of none; `issue` is the link of a known issue.

    `hardware` marks a test of the test bed's model of the hardware. `uptime` is that of the watched machine when the
    test looked at it (seconds). `roads` are those by which the questions were answered that a disk can answer as well,
    `one_road` is the reason if they are not both.
    """

    __test__ = False  # pytest would otherwise take the name for a test class

    test: str
    status: Status
    claim: str = ""
    why: str = ""
    blame: str = ""
    reason: str = ""
    issue: str = ""
    attempt: int = 1
    evidence: str = ""
    hardware: bool = False
    uptime: int | None = None
    roads: tuple[str, ...] = ()
    one_road: str = ""

    def fields(self) -> dict[str, Any]:
        """Returns the fields of the outcome as values of JSON."""
        return {**asdict(self), "status": str(self.status)}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> TestOutcome:
        """Reads the fields of an outcome after they went through JSON."""
        return cls(**{**fields, "status": Status(fields["status"]), "roads": tuple(fields.get("roads", ()))})


#: The word of --require for every claim; other words are reasons and claims.
ALL = "all"
#: In counts of what was not judged, the key of claims whose judges were not all run.
NOT_RUN = "not run"
NO_JUDGE = "no test judges it"
_ROADS: tuple[Literal["guest", "disk"], ...] = ("guest", "disk")
#: The number of claims, and of tests of one claim, named in the verdict's line; gate.json has them all.
_NAMED, _TESTS_NAMED = 8, 3


def records(outcomes: Iterable[TestOutcome]) -> list[TestRecord]:
    """Returns the result of each test, in order of their names."""
    by_test: dict[str, list[TestOutcome]] = {}
    for outcome in outcomes:
        by_test.setdefault(outcome.test, []).append(outcome)
    return [_record(test, by_test[test]) for test in sorted(by_test)]


def settle(claims: Mapping[str, str], outcomes: Iterable[TestOutcome], figures: Iterable[Figure] = (),
           judges: Mapping[str, Collection[str]] | None = None) -> list[ClaimRecord]:
    """Returns the result of each claim (identifier → promise), in that order; the worst test decides.

    `judges` are the tests that judge each claim, whether they were run or not.
    """
    by_claim: dict[str, list[TestOutcome]] = {claim: [] for claim in claims}
    for outcome in outcomes:
        by_claim.setdefault(outcome.claim, []).append(outcome)
    figures = list(figures)
    return [judged(claim, promise, records(by_claim[claim]), figures, (judges or {}).get(claim, ()))
            for claim, promise in claims.items()]


def judged(claim: str, promise: str, tests: list[TestRecord], figures: Iterable[Figure] = (),
           judges: Iterable[str] = ()) -> ClaimRecord:
    """Returns the result of one claim by its tests; it is kept only if each of its judges was run."""
    names = {test.id for test in tests}
    skipped = {test.id for test in tests if test.status is Status.NOT_JUDGED and not test.reason}
    missing = sorted((set(judges) - names) | skipped)
    if not tests:
        why = f"{NOT_RUN}: {_named(missing, _TESTS_NAMED)}" if missing else NO_JUDGE
        return ClaimRecord(id=claim, promise=promise, status=Status.NOT_JUDGED, why=why, missing=missing)
    worst = min(tests, key=lambda test: test.status.gravity)
    result = ClaimRecord(
        id=claim, promise=promise, status=worst.status, why=worst.why, blame=worst.blame, issue=worst.issue,
        reason=worst_reason(test.reason for test in tests) if worst.status is Status.NOT_JUDGED else None,
        last_looked=max((test.uptime for test in tests if test.uptime is not None), default=None),
        evidence=[folder for test in tests for folder in test.evidence], tests=tests, missing=missing,
        figures=sorted((figure for figure in figures if figure.test in names), key=lambda figure: figure.test),
        roads=_roads(tests), one_road=next((test.one_road for test in tests if test.one_road), ""),
    )  # fmt: skip
    if not missing or worst.status.gravity < Status.NOT_JUDGED.gravity:
        return result
    return result.model_copy(update={"status": Status.NOT_JUDGED, "blame": None, "reason": None,
                                     "why": f"{NOT_RUN}: {_named(missing, _TESTS_NAMED)}"})


def conclude(claims: Iterable[ClaimRecord], *, others: Iterable[TestRecord] = (), hardware: Iterable[TestRecord] = (),
             troubles: Iterable[str] = (), failures: Iterable[str] = (), selected: Collection[str] = (),
             required: Collection[str] = (), parts: Collection[str] = (), interrupted: str = "") -> tuple[Verdict, str]:
    """Returns the verdict and its reason in one line.

    A run that was `interrupted` (by what) has no other verdict, whatever was judged until then.

    A failed claim, a failed test of no claim, or a failure outside the tests makes it *fail*. A broken claim or test
    (of the hardware's model as well) or a trouble of the run itself makes it *broken*. Only judged claims pass: if a
    judge of a claim was not run, if the profile lacks what a judge needs, if a claim is not judged that is `required`
    (by its name, by the reason why it is not judged, or as one of all), if only some claims were selected, if nothing
    at all was judged, or if `parts` names parts of the image that are still open, the best verdict is *not judged*.
    A claim that this host, this image or these options cannot judge passes otherwise, and so does a known one.
    """
    claims, others, troubles, failures = list(claims), list(others), list(troubles), list(failures)
    wrong = [*_lines("not kept", [claim.id for claim in claims if claim.status.is_failure]),
             *_lines("failed beside the claims", [test.id for test in others if test.status.is_failure]), *failures]
    if interrupted:
        return Verdict.INTERRUPTED, "; ".join([interrupted, *wrong, *parts])
    if wrong:
        return Verdict.FAIL, "; ".join([*wrong, *parts])
    broken = [claim.id for claim in claims if claim.status is Status.BROKEN]
    broken += [test.id for test in (*others, *hardware) if test.status is Status.BROKEN]
    if broken or troubles:
        return Verdict.BROKEN, "; ".join([*troubles, *_lines("broken", broken), *parts])
    if selected and not claims:
        return Verdict.BROKEN, "the profile makes none of the claims that were selected"
    if parts:
        return Verdict.NOT_JUDGED, "; ".join(parts)
    left = [*_left_out(claims), *_required(claims, required)]
    unjudged = _lines("not judged", [f"{claim.id} ({claim.reason})" for claim in claims if claim.reason])
    if selected:
        left = [f"only {_named(list(selected))} was selected; every other claim is open", *(left or unjudged)]
    elif not left and all(claim.status is Status.NOT_JUDGED for claim in claims):
        left = ["no claim could be judged", *unjudged]
    if left:
        return Verdict.NOT_JUDGED, "; ".join([*left, *_notes(claims)])
    return Verdict.PASS, "; ".join([*unjudged, *_notes(claims)]) or "every claim is kept"


def headline(document: Document) -> str:
    """Returns the verdict in a few words: a pass with the number of claims that were not judged, by reason."""
    open_claims = sum(document.not_judged.values())
    if document.verdict is not Verdict.PASS or not open_claims:
        return str(document.verdict)
    counts = ", ".join(f"{number} by {reason}" for reason, number in document.not_judged.items())
    return f"{document.verdict}, {open_claims} claim{'s' * (open_claims > 1)} not judged: {counts}"


def not_judged(claims: Iterable[ClaimRecord]) -> dict[str, int]:
    """Returns how many claims were not judged for each reason, the worst first; NOT_RUN is the worst of all."""
    found = [str(claim.reason or NOT_RUN) for claim in claims if claim.status is Status.NOT_JUDGED]
    return {reason: found.count(reason) for reason in (NOT_RUN, *map(str, REASONS)) if reason in found}


def late_look(claims: Iterable[ClaimRecord]) -> str:
    """Returns a sentence on when late changes were last looked for, by the claim that did so earliest; or nothing."""
    looked = [claim.last_looked for claim in claims if claim.last_looked is not None]
    return f"late changes: {len(looked)} claims, last looked at {min(looked)} s of uptime" if looked else ""


def hardware_counted(tests: Sequence[TestRecord]) -> str:
    """Returns how many tests of the hardware model there are, and the number of each result."""
    return f"{len(tests)} test{'s' * (len(tests) > 1)}, {counted(tests)}"


def one_road(claims: Iterable[ClaimRecord]) -> str:
    """Returns a sentence on the claims that were judged by one road where a disk could have answered; or nothing."""
    found = [claim for claim in claims if claim.one_road]
    return f"not cross-checked: {_named([claim.id for claim in found])} ({found[0].one_road})" if found else ""


def counted(results: Iterable[ClaimRecord | TestRecord]) -> str:
    """Returns how many claims or tests have each status, as text."""
    statuses = [result.status for result in results]
    order = [Status.PASSED, *(status for status in Status if status is not Status.PASSED)]
    return ", ".join(f"{statuses.count(status)} {status}" for status in order if status in statuses)


def _left_out(claims: list[ClaimRecord]) -> Iterator[str]:
    """What no run may leave out: judges that were not run, claims without one, and data that the profile lacks."""
    yield from _lines(NOT_RUN, [f"{claim.id} ({_named(claim.missing, _TESTS_NAMED)})"
                                for claim in claims if claim.missing], _TESTS_NAMED)
    yield from _lines(NO_JUDGE.replace(" it", ""), [claim.id for claim in claims if claim.why == NO_JUDGE])
    yield from _lines("the profile has no data to judge",
                      [claim.id for claim in claims if Reason.PROFILE in _reasons(claim)])


def _required(claims: list[ClaimRecord], required: Collection[str]) -> Iterator[str]:
    """The claims that are not judged although the caller requires them, and those that the run does not judge."""
    found = [f"{claim.id} ({worst_reason(_reasons(claim))})" for claim in claims
             if (reasons := _reasons(claim)) and {ALL, claim.id, *reasons} & set(required)]
    yield from _lines("required, but not judged", found)
    known = {ALL, *Reason, *(claim.id for claim in claims)}
    yield from _lines("required, but no claim of this run", [word for word in required if word not in known])


def _reasons(claim: ClaimRecord) -> list[Reason]:
    return [test.reason for test in claim.tests if test.reason]


def _notes(claims: list[ClaimRecord]) -> list[str]:
    """The claims that pass the gate but are always listed: known and flaky ones."""
    return [line for status in (Status.KNOWN, Status.FLAKY)
            for line in _lines(status, [claim.id for claim in claims if claim.status is status])]  # fmt: skip


def _lines(what: str, names: list[str], most: int = _NAMED) -> list[str]:
    return [f"{what}: {_named(names, most)}"] if names else []


def _named(names: list[str], most: int = _NAMED) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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
        reason=_reason(last) if status is Status.NOT_JUDGED else None,
        attempts=[Attempt(status=each.status, why=each.why, blame=_blame(each), reason=_reason(each))
                  for each in worst],
        evidence=sorted({outcome.evidence for outcome in outcomes if outcome.evidence}), uptime=worst[-1].uptime,
        roads=[road for road in _ROADS if road in worst[-1].roads], one_road=worst[-1].one_road,
    )  # fmt: skip


def _roads(tests: Iterable[TestRecord]) -> list[Literal["guest", "disk"]]:
    """The roads by which all tests were answered that have any."""
    found = [test.roads for test in tests if test.roads]
    return [road for road in _ROADS if found and all(road in roads for roads in found)]


def _blame(outcome: TestOutcome) -> Blame | None:
    return Blame(outcome.blame) if outcome.blame else None


def _reason(outcome: TestOutcome) -> Reason | None:
    return Reason(outcome.reason) if outcome.reason else None
