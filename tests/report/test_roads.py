"""A report says which claims were cross-checked with the disk, and why others were not."""

from __future__ import annotations

import json

from lifsea_testbed.report import gate
from lifsea_testbed.report.gate import TestOutcome
from lifsea_testbed.report.outcome import Status

CLAIMS = {"no-sshd": "no sshd", "no-python": "no python", "sysctls": "settings"}
XFS = "partition 3 holds XFS"


def outcome(claim: str, test: str, *roads: str, one_road: str = "") -> TestOutcome:
    sent = TestOutcome(test=test, claim=claim, status=Status.PASSED, roads=roads, one_road=one_road).fields()
    return TestOutcome.from_fields(json.loads(json.dumps(sent)))


def test_a_claim_has_the_roads_that_all_its_answers_came_by() -> None:
    claims = gate.settle(CLAIMS, [
        outcome("no-sshd", "1", "guest", "disk"), outcome("no-sshd", "2", "guest", one_road=XFS),
        outcome("no-sshd", "3"), outcome("no-python", "4", "guest", "disk"), outcome("sysctls", "5"),
    ])  # fmt: skip
    assert [claim.roads for claim in claims] == [["guest"], ["guest", "disk"], []]
    assert [claim.one_road for claim in claims] == [XFS, "", ""]
    assert gate.one_road(claims) == f"not cross-checked: no-sshd ({XFS})"
    assert gate.one_road(claims[1:]) == ""


def test_a_claim_that_one_road_judges_is_judged() -> None:
    (claim,) = gate.settle({"no-sshd": ""}, [outcome("no-sshd", "1", "guest", one_road=XFS)])
    assert claim.status is Status.PASSED
    assert gate.conclude([claim])[0] == "pass"
