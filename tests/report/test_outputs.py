"""Texts of an image appear in every report as text, never as markup or commands."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from lifsea_testbed.report import allure, gate, github, junit, markdown, terminal
from lifsea_testbed.report.document import Document, ImageRecord, IssueRecord, IssueState, KnownIssues, Verdict
from lifsea_testbed.report.gate import TestOutcome
from lifsea_testbed.report.outcome import Status

HOSTILE = "a|b `c` <img src=x> @everyone [x](http://evil) \n::error::x%0A 100% \ufffe"


def document(*outcomes: TestOutcome, gone: int = 0) -> Document:
    image = ImageRecord(name="out.qcow2", sha256="0" * 64, format="qcow2", virtual_size=1, file_size=1)
    claims = gate.settle({outcome.claim: "A promise." for outcome in outcomes}, outcomes)
    issue = IssueRecord(claim="a", link="https://a", owner="o", since="", expires="", extensions=0,
                        state=IssueState.GONE)  # fmt: skip
    return Document(
        testbed="0.1.0", verdict=Verdict.FAIL, exit_status=1, why="not kept", image=image, profile="p", runs=[],
        instance_type="ecs.g7.large", selected=[], claims=claims,
        known_issues=KnownIssues(as_of="2026-11-25", issues=[issue] * gone) if gone else None,
    )  # fmt: skip


def failed(number: int = 0, why: str = HOSTILE) -> TestOutcome:
    return TestOutcome(claim=f"claim-{number}", test=f"test_a.py::test_{number}", status=Status.FAILED, why=why)


def test_markdown_stays_text() -> None:
    text = markdown.summary(document(failed()))
    (row,) = [line for line in text.splitlines() if line.startswith("| `claim-0`")]
    assert row.replace("\\|", "").count("|") == 5
    assert "| ``a\\|b `c` <img src=x> @everyone [x](http://evil) ::error::x%0A 100% \\ufffe`` |" in row


def test_an_annotation_is_one_line() -> None:
    actions = {"GITHUB_ACTIONS": "true"}
    (line,) = github.commands(document(failed()), {"test_a.py::test_0": 12}, actions)
    assert line.startswith("::error file=test_a.py,line=12,title=failed%3A claim-0::a|b")
    assert "\n" not in line and "%0A::error::x%250A 100%25" in line


def test_elsewhere_there_are_no_annotations_and_no_summary(tmp_path: Path) -> None:
    assert list(github.commands(document(failed()), {}, {})) == []
    github.add_summary(document(failed()), {})


def test_the_summary_is_appended_to_that_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "summary").write_text("before\n")
    github.add_summary(document(failed()), {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary")})
    assert (tmp_path / "summary").read_text() == f"before\n{markdown.summary(document(failed()))}\n"


def test_junit_is_valid_for_any_text_of_an_image(tmp_path: Path) -> None:
    junit.write(document(failed()), tmp_path / "junit.xml", durations={"test_a.py::test_0": 1.25})
    (case,) = ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    (failure,) = case.iter("failure")
    assert failure.attrib["message"] == f"failed: {HOSTILE}".replace("\ufffe", "\\ufffe")
    assert (case.attrib["time"], case.attrib["classname"], case.attrib["name"]) == ("1.250", "claim-0", "test_0")


@pytest.mark.parametrize("count", [0, 1, 12, 13, 60])
def test_many_failures_fit_a_screen(count: int) -> None:
    """The section's head, the verdict in two lines and pytest's own last line are the rest of 24."""
    kept = TestOutcome(claim="kept", test="t", status=Status.PASSED)
    hardware = gate.records([TestOutcome(test="h", status=Status.BROKEN, hardware=True)])
    made = document(*(failed(number) for number in range(count)), kept, gone=9)
    lines = list(terminal.lines(made.model_copy(update={"hardware": hardware}), 80))
    assert len(lines) <= 20 and all(len(line) <= 80 for line, _ in lines)
    assert not any("\n" in line for line, _ in lines)
    assert ("hardware model: 1 test, 1 broken", "red") in lines
    assert [line for line, _ in lines if "more, in gate.json" in line] == (
        [f"            and {count - 12} more, in gate.json"] if count > 12 else []
    )


def test_the_hardware_s_model_has_a_section_of_its_own() -> None:
    hardware = gate.records([TestOutcome(test="t::queues", status=Status.NOT_JUDGED, reason="host", why="1 queue",
                                         hardware=True)])  # fmt: skip
    text = markdown.summary(document(failed()).model_copy(update={"hardware": hardware}))
    assert "### Hardware model\n\n1 test, 1 not judged.\n" in text
    assert "| `t::queues` | not judged by host | `1 queue` |" in text
    assert "1 failed of 1 claims" in text


@pytest.mark.parametrize(("counts", "words"), [
    ({}, "pass"), ({"host": 1}, "pass, 1 claim not judged: 1 by host"),
    ({"option": 2, "host": 1}, "pass, 3 claims not judged: 2 by option, 1 by host"),
])  # fmt: skip
def test_no_report_calls_it_a_bare_pass(tmp_path: Path, counts: dict[str, int], words: str) -> None:
    passed = document(TestOutcome(claim="a", test="t", status=Status.PASSED)).model_copy(
        update={"verdict": Verdict.PASS, "not_judged": counts}
    )
    assert terminal.verdict(passed, "gate.json").startswith(f"verdict: {words} - p: ")
    assert markdown.summary(passed).startswith(f"## ✅ {words}: `out.qcow2` (`p`)\n")
    junit.write(passed, tmp_path / "junit.xml", durations={})
    assert f'name="verdict" value="{words}"' in (tmp_path / "junit.xml").read_text()
    allure.prepare(passed, tmp_path, tmp_path / "allure")
    assert f"verdict={words}\n" in (tmp_path / "allure/environment.properties").read_text()
    assert f'"name": "{words}: out.qcow2"' in (tmp_path / "allurerc.json").read_text()
