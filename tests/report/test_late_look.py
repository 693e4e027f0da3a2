"""A report says at which uptime late changes were last looked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifsea_testbed.errors import GuestCrashed, NotJudged, Reason
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.plugin import results
from lifsea_testbed.report import gate
from lifsea_testbed.report.gate import TestOutcome
from lifsea_testbed.report.outcome import Judgement, Status

CLAIMS = {"no-sshd": "no sshd", "sysctls": "settings", "image-small": "small"}


def outcome(claim: str, test: str, uptime: int | None, attempt: int = 1) -> TestOutcome:
    sent = TestOutcome(test=test, claim=claim, status=Status.PASSED, uptime=uptime, attempt=attempt).fields()
    return TestOutcome.from_fields(sent)


def test_a_claim_was_last_looked_at_by_its_latest_test_and_all_by_the_earliest_claim() -> None:
    claims = gate.settle(CLAIMS, [
        outcome("no-sshd", "one[after-boot]", 41), outcome("no-sshd", "one[late]", 143), outcome("no-sshd", "2", None),
        outcome("sysctls", "set[late]", 30, attempt=1), outcome("sysctls", "set[late]", 150, attempt=2),
        outcome("image-small", "small", None),
    ])  # fmt: skip
    assert [claim.last_looked for claim in claims] == [143, 150, None]
    assert gate.late_look(claims) == "late changes: 2 claims, last looked at 143 s of uptime"
    assert gate.late_look(claims[2:]) == ""


class FakeMachine(Machine):
    """A machine that answers with its uptime, or fails."""

    def __init__(self, answer: float | Exception) -> None:
        self.guest = cast(Any, SimpleNamespace(kernel=SimpleNamespace(uptime=self._uptime)))
        self._answer = answer

    def _uptime(self) -> float:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(("fixture", "answer", "status", "uptime"), [
    ("watched", 143.9, Status.PASSED, 143), ("watched", 143.9, Status.FAILED, 143),
    ("watched", 9.0, Status.NOT_JUDGED, None),
    ("booted", 143.9, Status.PASSED, None), ("watched", GuestCrashed("panic"), Status.FAILED, None),
    ("watched", NotJudged("no shell", Reason.IMAGE), Status.PASSED, None),
])  # fmt: skip
def test_the_uptime_is_that_of_the_watched_machine(fixture: str, answer: Any, status: Status,
                                                   uptime: int | None) -> None:
    item: Any = SimpleNamespace(funcargs={fixture: FakeMachine(answer)})
    assert results._uptime(item, Judgement(status=status)) == uptime
