"""The status of an exception, and the verdict of the gate over many."""

from __future__ import annotations

import pytest

from lifsea_testbed.errors import (
    Blame,
    BootFailed,
    CallerError,
    ChannelError,
    CommandFailed,
    Explained,
    GuestCrashed,
    HostError,
    LaunchError,
    NotJudged,
    Reason,
    WaitTimedOut,
)
from lifsea_testbed.report import gate
from lifsea_testbed.report.document import Figure, Verdict
from lifsea_testbed.report.gate import NOT_RUN, TestOutcome
from lifsea_testbed.report.outcome import Status, judge

PROMISES = {"a": "A holds.", "b": "B holds."}


def outcome(claim: str, status: Status, test: str = "t") -> TestOutcome:
    return TestOutcome(claim=claim, test=test, status=status, why=f"{claim} {status}")


@pytest.mark.parametrize(("error", "status", "blame"), [
    (None, Status.PASSED, None),
    (AssertionError("1 == 2"), Status.FAILED, Blame.PRODUCT),
    (BootFailed("x"), Status.FAILED, Blame.PRODUCT),
    (GuestCrashed("x"), Status.FAILED, Blame.PRODUCT),
    (CommandFailed("x"), Status.FAILED, Blame.PRODUCT),
    (WaitTimedOut("x"), Status.FAILED, Blame.PRODUCT),
    (LaunchError("x"), Status.BROKEN, Blame.HOST),
    (HostError("x"), Status.BROKEN, Blame.HOST),
    (ChannelError("x"), Status.BROKEN, Blame.HARNESS),
    (CallerError("x"), Status.BROKEN, Blame.CALLER),
    (KeyError("x"), Status.BROKEN, Blame.HARNESS),
    (NotJudged("emulated", Reason.HOST), Status.NOT_JUDGED, None),
])  # fmt: skip
def test_the_type_of_the_exception_is_the_verdict(
    error: BaseException | None, status: Status, blame: Blame | None
) -> None:
    judgement = judge(error)
    assert (judgement.status, judgement.blame) == (status, blame)


def test_an_error_shows_all_its_parts() -> None:
    error = Explained("it broke", expected="a whole one", evidence="pieces", hint="glue")
    assert str(error) == "it broke\nexpected: a whole one\nhint: glue\nevidence:\npieces"
    assert error.one_line == "it broke (hint: glue)"


def test_the_worst_test_decides_over_a_claim() -> None:
    results = gate.settle(PROMISES, [outcome("a", Status.PASSED, "t1"), outcome("a", Status.FAILED, "t2"),
                                     outcome("a", Status.NOT_JUDGED, "t3"), outcome("b", Status.PASSED)])  # fmt: skip
    assert [(result.id, result.status) for result in results] == [("a", Status.FAILED), ("b", Status.PASSED)]
    assert [test.id for test in results[0].tests] == ["t1", "t2", "t3"]


def test_a_claim_without_a_test_does_not_pass() -> None:
    results = gate.settle(PROMISES, [outcome("a", Status.PASSED)])
    assert (results[1].status, results[1].why) == (Status.NOT_JUDGED, NOT_RUN)
    assert gate.conclude(results)[0] is Verdict.BROKEN


@pytest.mark.parametrize(("statuses", "troubles", "verdict"), [
    ((Status.PASSED, Status.PASSED), [], Verdict.PASS),
    ((Status.PASSED, Status.NOT_JUDGED), [], Verdict.PASS),
    ((Status.FAILED, Status.BROKEN), [], Verdict.FAIL),
    ((Status.PASSED, Status.BROKEN), [], Verdict.BROKEN),
    ((Status.PASSED, Status.PASSED), ["the image changed"], Verdict.BROKEN),
    ((Status.PASSED, Status.EXPIRED), [], Verdict.FAIL),
    ((Status.PASSED, Status.KNOWN), [], Verdict.PASS),
    ((Status.PASSED, Status.FLAKY), [], Verdict.PASS),
    ((Status.NOT_JUDGED, Status.NOT_JUDGED), [], Verdict.NOT_JUDGED),
])  # fmt: skip
def test_the_gate(statuses: tuple[Status, Status], troubles: list[str], verdict: Verdict) -> None:
    outcomes = [outcome(claim, status) for claim, status in zip("ab", statuses, strict=True)]
    assert gate.conclude(gate.settle(PROMISES, outcomes), troubles=troubles)[0] is verdict


def test_a_failure_beside_the_claims_fails_the_gate() -> None:
    results = gate.settle(PROMISES, [outcome("a", Status.PASSED), outcome("b", Status.PASSED)])
    assert gate.conclude(results, failures=["boot regressed"]) == (Verdict.FAIL, "boot regressed")
    failed = gate.settle(PROMISES, [outcome("a", Status.FAILED), outcome("b", Status.PASSED)])
    assert gate.conclude(failed, failures=["boot regressed"])[1] == "not kept: a; boot regressed"


def test_each_verdict_has_its_exit_status() -> None:
    assert [verdict.exit_status for verdict in Verdict] == [0, 1, 6, 7]


@pytest.mark.parametrize(("status", "verdict"), [
    (Status.PASSED, Verdict.NOT_JUDGED), (Status.FAILED, Verdict.FAIL), (Status.BROKEN, Verdict.BROKEN),
])  # fmt: skip
def test_a_selection_never_passes(status: Status, verdict: Verdict) -> None:
    results = gate.settle({"a": "promise a"}, [outcome("a", status)])
    assert gate.conclude(results, selected=["a"])[0] is verdict
    assert gate.conclude([], selected=["a"])[0] is Verdict.BROKEN


def test_an_outcome_survives_its_way_through_json() -> None:
    before = outcome("a", Status.FAILED)
    fields = {"claim": "a", "test": "t", "status": "failed", "why": "a failed", "blame": ""}
    assert TestOutcome.from_fields(fields) == before


def test_a_test_that_passes_at_a_later_attempt_is_flaky() -> None:
    first = TestOutcome(claim="a", test="t", status=Status.BROKEN, why="no answer", blame="harness",
                        evidence="evidence/t")  # fmt: skip
    (result,) = gate.settle({"a": "A."}, [first, TestOutcome(claim="a", test="t", status=Status.PASSED, attempt=2)])
    assert (result.status, result.blame) == (Status.FLAKY, Blame.HARNESS)
    assert result.why == "passed at attempt 2; attempt 1 broken: no answer"
    assert [attempt.status for attempt in result.tests[0].attempts] == [Status.BROKEN, Status.PASSED]
    assert result.evidence == ["evidence/t"]
    verdict, why = gate.conclude([result])
    assert verdict is Verdict.PASS and "flaky: a" in why


def test_the_last_attempt_counts_where_none_passes() -> None:
    attempts = [TestOutcome(claim="a", test="t", status=Status.BROKEN, attempt=1),
                TestOutcome(claim="a", test="t", status=Status.FAILED, why="sshd", attempt=2)]  # fmt: skip
    (result,) = gate.settle({"a": "A."}, attempts)
    assert (result.status, result.why) == (Status.FAILED, "sshd")


def test_a_teardown_that_breaks_after_a_pass_is_not_a_second_attempt() -> None:
    outcomes = [outcome("a", Status.PASSED), outcome("a", Status.BROKEN)]
    assert gate.settle({"a": "A."}, outcomes)[0].status is Status.BROKEN


def test_a_test_of_no_claim_counts_as_well() -> None:
    kept = gate.settle({"a": "A."}, [outcome("a", Status.PASSED)])
    for status, verdict in ((Status.FAILED, Verdict.FAIL), (Status.BROKEN, Verdict.BROKEN)):
        others = gate.records([TestOutcome(test="test_x.py::test_y", status=status)])
        assert gate.conclude(kept, others=others)[0] is verdict
        assert "test_x.py::test_y" in gate.conclude(kept, others=others)[1]


def test_a_part_of_the_tests_never_passes_nor_is_it_broken_by_what_others_run() -> None:
    results = gate.settle(PROMISES, [outcome("a", Status.PASSED)])
    assert gate.conclude(results, parts=["this is shard 1/2"]) == (Verdict.NOT_JUDGED, "this is shard 1/2")
    failed = gate.settle(PROMISES, [outcome("a", Status.FAILED)])
    assert gate.conclude(failed, parts=["this is shard 1/2"]) == (Verdict.FAIL, "not kept: a; this is shard 1/2")


def test_the_order_of_the_tests_does_not_matter() -> None:
    outcomes = [outcome("a", Status.FAILED, "t2"), outcome("a", Status.FAILED, "t1"), outcome("b", Status.PASSED)]
    figures = [Figure(test=test, metric="m", value=1.0, unit="s", better="lower") for test in ("t2", "t1")]
    one, other = gate.settle(PROMISES, outcomes, figures), gate.settle(PROMISES, outcomes[::-1], figures[::-1])
    assert one == other


def test_statuses_are_counted_in_words() -> None:
    results = gate.settle(PROMISES, [outcome("a", Status.PASSED), outcome("b", Status.NOT_JUDGED)])
    assert gate.counted(results) == "1 passed, 1 not judged"
