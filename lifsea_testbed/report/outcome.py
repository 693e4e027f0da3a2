"""Maps an exception to a status: its type alone decides."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from lifsea_testbed.errors import Blame, Explained, GuestFailure, NotJudged


class Status(enum.StrEnum):
    """The status of a test or a claim, from worst to best; every report uses these words."""

    FAILED = "failed"
    #: It failed by the signature of a known issue that has expired.
    EXPIRED = "expired"
    BROKEN = "broken"
    #: It failed by the signature of a known issue that has not expired.
    KNOWN = "known"
    #: It passed at a later attempt.
    FLAKY = "flaky"
    NOT_JUDGED = "not judged"
    PASSED = "passed"

    @property
    def gravity(self) -> int:
        """The place in the order: 0 is the worst."""
        return list(Status).index(self)

    @property
    def is_failure(self) -> bool:
        """Whether the image broke its promise, and no known issue covers it."""
        return self in (Status.FAILED, Status.EXPIRED)

    @property
    def is_kept(self) -> bool:
        """Whether the image kept its promise, at the first or a later attempt."""
        return self in (Status.PASSED, Status.FLAKY)

    @property
    def is_wrong(self) -> bool:
        """Whether evidence has to be kept."""
        return self not in (Status.PASSED, Status.NOT_JUDGED)

    @property
    def is_quiet(self) -> bool:
        """Whether it needs no attention."""
        return self is Status.PASSED


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The status of one test, whose fault it is, the reason in one line, and the link of the known issue, if any."""

    status: Status
    blame: Blame | None = None
    why: str = ""
    issue: str = ""


def judge(error: BaseException | None) -> Judgement:
    """Returns the judgement on a test that ended with that exception, or without one."""
    if error is None:
        return Judgement(status=Status.PASSED)
    if isinstance(error, NotJudged):
        return Judgement(status=Status.NOT_JUDGED, why=str(error))
    if isinstance(error, GuestFailure):
        return Judgement(status=Status.FAILED, blame=error.blame, why=error.happened)
    if isinstance(error, AssertionError):
        return Judgement(status=Status.FAILED, blame=Blame.PRODUCT, why=_first_line(error))
    if isinstance(error, Explained):
        return Judgement(status=Status.BROKEN, blame=error.blame, why=error.one_line)
    return Judgement(status=Status.BROKEN, blame=Blame.HARNESS, why=f"{type(error).__name__}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
