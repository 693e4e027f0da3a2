"""Maps an exception to a status: its type alone decides."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.errors import Blame, Explained, GuestFailure, NotJudged, Reason
from lifsea_testbed.support.lines import split_lines


class Status(enum.StrEnum):
    """The status of a test or a claim, from worst to best; every report uses these words."""

    FAILED = "failed"
    #: It failed by the signature of a known issue that has expired.
    EXPIRED = "expired"
    BROKEN = "broken"
    #: It failed by the signature of a known issue that has not expired.
    KNOWN = "known"
    NOT_JUDGED = "not judged"
    #: It passed at a later attempt.
    FLAKY = "flaky"
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


#: The reasons why something is not judged, the worst first: the profile's owner, then the caller, can mend theirs;
#: another host helps the third; nothing helps the last. Of several reasons the worst is that of the claim.
REASONS = (Reason.PROFILE, Reason.OPTION, Reason.HOST, Reason.IMAGE)


#: What begins the reason of a test that judged nothing because the image has not come up.
NOT_UP = "the image did not come up"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The status of one test, whose fault it is, the reason in one line, and the link of the known issue, if any.

    `reason` is what kept the test from judging, if it did not.
    """

    status: Status
    blame: Blame | None = None
    why: str = ""
    issue: str = ""
    reason: Reason | None = None


def judge(error: BaseException | None) -> Judgement:
    """Returns the judgement on a test that ended with that exception, or without one."""
    if error is None:
        return Judgement(status=Status.PASSED)
    if isinstance(error, NotJudged):
        return Judgement(status=Status.NOT_JUDGED, why=str(error), reason=error.reason)
    if isinstance(error, GuestFailure):
        return Judgement(status=Status.FAILED, blame=error.blame, why=error.happened)
    if isinstance(error, AssertionError):
        return Judgement(status=Status.FAILED, blame=Blame.PRODUCT, why=first_line(error))
    if isinstance(error, Explained):
        return Judgement(status=Status.BROKEN, blame=error.blame, why=error.one_line)
    return Judgement(status=Status.BROKEN, blame=Blame.HARNESS, why=f"{type(error).__name__}: {first_line(error)}")


def in_words(status: Status, reason: str | None) -> str:
    """Returns the status as reports show it: with the reason, where there is one."""
    return f"{status} by {reason}" if reason else str(status)


def worst_reason(reasons: Iterable[Reason | None]) -> Reason | None:
    """Returns the worst of the reasons, or None if there is none."""
    return min((reason for reason in reasons if reason), key=REASONS.index, default=None)


def first_line(error: BaseException) -> str:
    """Returns the first line of the text of an exception, or the name of its type if it has none."""
    return (split_lines(str(error).strip()) or [type(error).__name__])[0]
