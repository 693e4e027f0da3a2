"""The gate: the outcomes of all tests, joined into one verdict over the claims of a profile."""

from __future__ import annotations

import enum
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lifsea_testbed.report.verdict import Status


class Verdict(enum.StrEnum):
    """What a run says of an image."""

    PASS = "pass"
    FAIL = "fail"
    BROKEN = "broken"
    PARTIAL = "partial"

    @property
    def exit_status(self) -> int:
        """The exit status of the run: 1 as pytest has it for failures, 6 and 7 beyond what pytest uses itself."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.BROKEN: 6, Verdict.PARTIAL: 7}[self]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one test of one claim."""

    claim: str
    test: str
    status: Status
    why: str = ""
    blame: str = ""

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Outcome:
        """Reads what `asdict` made of an outcome, after it went through JSON."""
        return cls(**{**fields, "status": Status(fields["status"])})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """What became of one claim: the worst of its tests."""

    id: str
    promise: str
    status: Status
    why: str
    blame: str
    tests: list[str] = field(default_factory=list)


#: So many claims are named in the verdict's one line; gate.json has them all.
_NAMED = 8
NOT_RUN = "no test of it was run"


def settle(claims: Mapping[str, str], outcomes: Iterable[Outcome]) -> list[ClaimResult]:
    """Returns the result of each claim (identifier → promise), in that order; the worst test decides."""
    by_claim: dict[str, list[Outcome]] = {claim: [] for claim in claims}
    for outcome in outcomes:
        by_claim.setdefault(outcome.claim, []).append(outcome)
    return [_result(claim, promise, by_claim[claim]) for claim, promise in claims.items()]


def conclude(results: Iterable[ClaimResult], *, troubles: Iterable[str] = (),
             failures: Iterable[str] = (), selected: Collection[str] = ()) -> tuple[Verdict, str]:
    """Returns the verdict and its reason in one line.

    A claim that failed, or a failure beside the claims, makes it *fail*. A claim that broke, or that no test judged,
    or a trouble of the run itself, makes it *broken*: nothing passes a gate that was not held against it. What a host
    cannot judge is let through. Where only some claims were selected the best verdict is *partial*: the image was not
    judged as a whole.
    """
    results = list(results)
    failed = [result.id for result in results if result.status is Status.FAILED]
    broken = [result.id for result in results if result.status is Status.BROKEN]
    missing = [result.id for result in results if result.why == NOT_RUN]
    failures = list(failures)
    if failed or failures:
        return Verdict.FAIL, "; ".join([*([f"not kept: {_named(failed)}"] if failed else []), *failures])
    if broken or (troubles := list(troubles)):
        return Verdict.BROKEN, "; ".join([*troubles, *([f"broken: {_named(broken)}"] if broken else [])])
    if missing:
        return Verdict.BROKEN, f"not run: {_named(missing)}"
    if selected and not results:
        return Verdict.BROKEN, "the profile makes none of the claims that were selected"
    if selected:
        return Verdict.PARTIAL, f"only {_named(list(selected))} was judged; every other claim is open"
    return Verdict.PASS, "every claim is kept, or cannot be judged on this host"


def counted(results: Iterable[ClaimResult]) -> str:
    """Returns how many claims have each status, for people."""
    statuses = [result.status for result in results]
    words = [(Status.PASSED, "passed"), (Status.FAILED, "failed"), (Status.NOT_JUDGED, "not judged"),
             (Status.BROKEN, "broken")]  # fmt: skip
    return ", ".join(f"{statuses.count(status)} {word}" for status, word in words if status in statuses)


def write(path: Path, document: Mapping[str, object], results: Iterable[ClaimResult]) -> None:
    """Writes gate.json whole or not at all."""
    whole = {**document, "claims": [asdict(result) for result in results]}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
    temporary.replace(path)


def _named(claims: list[str]) -> str:
    return ", ".join(claims[:_NAMED]) + (f" and {len(claims) - _NAMED} more" if len(claims) > _NAMED else "")


def _result(claim: str, promise: str, outcomes: list[Outcome]) -> ClaimResult:
    if not outcomes:
        return ClaimResult(id=claim, promise=promise, status=Status.NOT_JUDGED, why=NOT_RUN, blame="")
    worst = min(outcomes, key=lambda outcome: outcome.status.gravity)
    return ClaimResult(id=claim, promise=promise, status=worst.status, why=worst.why, blame=worst.blame,
                       tests=list(dict.fromkeys(outcome.test for outcome in outcomes)))  # fmt: skip
