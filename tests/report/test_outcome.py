"""The status of an exception, and the verdict of the gate over many."""

from __future__ import annotations

import json

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
from lifsea_testbed.report.gate import NO_JUDGE, TestOutcome
from lifsea_testbed.report.outcome import Status, judge

PROMISES = {"a": "A holds.", "b": "B holds."}


def outcome(claim: str, status: Status, test: str = "t") -> TestOutcome:
    return TestOutcome(claim=claim, test=test, status=status, why=f"{claim} {status}",
                       reason="host" if status is Status.NOT_JUDGED else "")  # fmt: skip


def unjudged(claim: str, reason: str, test: str = "t") -> TestOutcome:
    return TestOutcome(claim=claim, test=test, status=Status.NOT_JUDGED, why="no way", reason=reason)


@pytest.mark.parametrize(("error", "status", "blame"), [
    (None, Status.PASSED, None),
    (AssertionError("1 == 2"), Status.FAILED, Blame.PRODUCT),
    (BootFailed("x"), Status.FAILED, Blame.PRODUCT),
    (GuestCrashed("x"), Status.FAILED, Blame.PRODUCT),
    (CommandFailed("x"), Status.FAILED, Blame.PRODUCT),
    (WaitTimedOut("x"), Status.FAILED, Blame.PRODUCT),
    (LaunchError("x"), Status.BROKEN, Blame.HOST),
    (HostError("x"), Status.BROKEN, Blame.HOST),
    (ChannelError("x"), Status.FAILED, Blame.PRODUCT),
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
    assert (results[1].status, results[1].why) == (Status.NOT_JUDGED, NO_JUDGE)
    assert gate.conclude(results) == (Verdict.NOT_JUDGED, "no test judges: b")


@pytest.mark.parametrize(("status", "kept"), [
    (Status.PASSED, Status.NOT_JUDGED), (Status.FLAKY, Status.NOT_JUDGED), (Status.NOT_JUDGED, Status.NOT_JUDGED),
    (Status.KNOWN, Status.KNOWN), (Status.FAILED, Status.FAILED), (Status.BROKEN, Status.BROKEN),
])  # fmt: skip
def test_a_claim_is_not_judged_if_a_judge_of_it_was_not_run(status: Status, kept: Status) -> None:
    (result,) = gate.settle({"a": "A."}, [unjudged("a", "option") if status is Status.NOT_JUDGED else
                                          outcome("a", status)], judges={"a": ["t", "u", "v"]})  # fmt: skip
    assert (result.status, result.missing, result.reason) == (kept, ["u", "v"], None)
    assert gate.conclude([result])[0] is not Verdict.PASS
    assert kept is not Status.NOT_JUDGED or result.why == "not run: u, v"


def test_a_claim_of_which_no_judge_was_run_names_them() -> None:
    judges = {"a": [f"t{number}" for number in range(5)], "b": ["t"]}
    results = gate.settle(PROMISES, [outcome("b", Status.PASSED)], judges=judges)
    assert gate.conclude(results) == (Verdict.NOT_JUDGED, "not run: a (t0, t1, t2 and 2 more)")
    assert (results[0].missing, gate.not_judged(results)) == (judges["a"], {"not run": 1})


def test_a_judge_without_a_reason_was_not_run() -> None:
    skipped = TestOutcome(claim="a", test="u", status=Status.NOT_JUDGED, why="not run: later")
    (result,) = gate.settle({"a": "A."}, [outcome("a", Status.PASSED), skipped], judges={"a": ["t", "u"]})
    assert (result.status, result.missing) == (Status.NOT_JUDGED, ["u"])
    assert gate.conclude([result]) == (Verdict.NOT_JUDGED, "not run: a (u)")


def test_a_later_attempt_does_not_hide_what_was_not_judged() -> None:
    """A claim with one flaky test, and another that judged nothing, is not kept."""
    broken = TestOutcome(claim="a", test="t", status=Status.BROKEN)
    passed = TestOutcome(claim="a", test="t", status=Status.PASSED, attempt=2)
    (result,) = gate.settle({"a": "A."}, [broken, passed, unjudged("a", "option", "u")])
    assert (result.status, result.reason) == (Status.NOT_JUDGED, Reason.OPTION)


@pytest.mark.parametrize(("reasons", "worst"), [
    (["image", "host"], "host"), (["host", "option"], "option"), (["option", "profile", "image"], "profile"),
])  # fmt: skip
def test_of_several_reasons_the_worst_is_that_of_the_claim(reasons: list[str], worst: str) -> None:
    outcomes = [unjudged("a", reason, reason) for reason in reasons]
    (result,) = gate.settle({"a": "A."}, [*outcomes, outcome("a", Status.PASSED)])
    assert (result.status, result.reason) == (Status.NOT_JUDGED, worst)


#: What the run was told to require → its verdict and the reason, of a claim that is kept and one that is not judged by
#: option, though a second judge of it could not judge by host either.
REQUIRED = [
    ([], Verdict.PASS, "not judged: b (option)"),
    (["image"], Verdict.PASS, "not judged: b (option)"),
    (["a"], Verdict.PASS, "not judged: b (option)"),
    *((words, Verdict.NOT_JUDGED, "required, but not judged: b (option)")
      for words in (["all"], ["option"], ["host"], ["b"], ["image", "b"])),
    (["no-sshd"], Verdict.NOT_JUDGED, "required, but no claim of this run: no-sshd"),
]  # fmt: skip


@pytest.mark.parametrize(("required", "verdict", "why"), REQUIRED)
def test_what_is_required_has_to_be_judged(required: list[str], verdict: Verdict, why: str) -> None:
    results = gate.settle(PROMISES, [outcome("a", Status.PASSED), unjudged("b", "host", "t1"),
                                     unjudged("b", "option", "t2")])  # fmt: skip
    assert gate.conclude(results, required=required) == (verdict, why)


def test_what_the_profile_has_no_data_for_never_passes() -> None:
    results = gate.settle(PROMISES, [outcome("a", Status.PASSED), unjudged("b", "profile")])
    assert gate.conclude(results) == (Verdict.NOT_JUDGED, "the profile has no data to judge: b")


def test_a_claim_known_to_fail_does_not_hide_a_lack_of_data() -> None:
    results = gate.settle({"a": "A."}, [outcome("a", Status.KNOWN), unjudged("a", "profile", "u")])
    assert gate.conclude(results)[0] is Verdict.NOT_JUDGED


@pytest.mark.parametrize(("status", "verdict"), [
    (Status.BROKEN, Verdict.BROKEN), (Status.NOT_JUDGED, Verdict.PASS), (Status.PASSED, Verdict.PASS),
])  # fmt: skip
def test_the_hardware_s_model_can_break_a_run_but_not_the_image(status: Status, verdict: Verdict) -> None:
    hardware = gate.records([TestOutcome(test="t::memory", status=status, hardware=True)])
    kept = gate.settle({"a": "A."}, [outcome("a", Status.PASSED)])
    assert gate.conclude(kept, hardware=hardware)[0] is verdict
    failed = gate.settle({"a": "A."}, [outcome("a", Status.FAILED)])
    assert gate.conclude(failed, hardware=hardware)[0] is Verdict.FAIL


@pytest.mark.parametrize(("statuses", "troubles", "verdict"), [
    ((Status.PASSED, Status.PASSED), [], Verdict.PASS),
    ((Status.PASSED, Status.NOT_JUDGED), [], Verdict.PASS),
    ((Status.FAILED, Status.PASSED), ["the image changed"], Verdict.FAIL),
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
    assert [verdict.exit_status for verdict in Verdict] == [0, 1, 6, 7, 2]


@pytest.mark.parametrize(("status", "verdict"), [
    (Status.PASSED, Verdict.NOT_JUDGED), (Status.FAILED, Verdict.FAIL), (Status.BROKEN, Verdict.BROKEN),
])  # fmt: skip
def test_a_selection_never_passes(status: Status, verdict: Verdict) -> None:
    results = gate.settle({"a": "promise a"}, [outcome("a", status)])
    assert gate.conclude(results, selected=["a"])[0] is verdict
    assert gate.conclude([], selected=["a"])[0] is Verdict.BROKEN


def test_an_outcome_survives_its_way_through_json() -> None:
    before = outcome("a", Status.FAILED)
    assert TestOutcome.from_fields(json.loads(json.dumps(before.fields()))) == before
    assert TestOutcome.from_fields(json.loads(json.dumps(unjudged("a", "host").fields()))) == unjudged("a", "host")


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


def test_an_error_is_bounded_whatever_a_guest_prints() -> None:
    error = CommandFailed("x" * (1 << 21), evidence=f"begin {'é' * (1 << 19)} end", expected="y" * (1 << 17))
    assert len(str(error).encode()) < 4 * (64 << 10) and "bytes are left out here" in error.evidence
    assert error.evidence.startswith("begin ") and error.evidence.endswith(" end")
