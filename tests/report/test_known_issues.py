"""Known issues: the form of their file, which failures they let pass, and their state after a run."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path

import pytest

from lifsea_testbed.errors import Blame, CallerError
from lifsea_testbed.report import gate, known_issues
from lifsea_testbed.report.document import ClaimRecord, IssueState
from lifsea_testbed.report.gate import TestOutcome
from lifsea_testbed.report.known_issues import Issue, KnownIssueList, load
from lifsea_testbed.report.outcome import Judgement, Status
from tests.support import ROOT
from tests.support.boot_sector import raw_image

TODAY = datetime.date(2026, 11, 25)
FAILED = Judgement(status=Status.FAILED, blame=Blame.PRODUCT, why="python3 is there")
ISSUE = """
[[issue]]
claim = "no-python"
profile = "lifsea-3.4"
versions = ">=3.4.0,<3.4.7"
signature = 'python3(\\.\\d+)? is there'
link = "https://issues.example/1"
owner = "kernel team"
since = 2026-10-01
expires = 2026-12-01
"""


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "known-issues.toml").write_text(text)
    return tmp_path / "known-issues.toml"


def known(tmp_path: Path, text: str = ISSUE, on: datetime.date = TODAY) -> KnownIssueList:
    return load([written(tmp_path, text)], on=on)


def excused(known: KnownIssueList, *, claim: str = "no-python", profile: str = "lifsea-3.4", version: str = "3.4.2",
            text: str = "CommandFailed: python3.6 is there", judgement: Judgement = FAILED) -> Judgement:
    return known_issues.excuse(judgement, known, claim=claim, profile=profile, version=version, text=text)


def test_a_known_failure_names_its_owner_and_its_end(tmp_path: Path) -> None:
    judgement = excused(known(tmp_path))
    assert (judgement.status, judgement.blame, judgement.issue) == (
        Status.KNOWN, Blame.PRODUCT, "https://issues.example/1",
    )  # fmt: skip
    assert judgement.why == ("known issue until 2026-12-01 (https://issues.example/1, kernel team): python3 is there")


@pytest.mark.parametrize("other", [
    {"claim": "no-sshd"}, {"profile": "lifsea-3.3"}, {"version": "3.4.7"}, {"version": "3.3.9"}, {"version": ""},
    {"version": "nonsense"}, {"text": "perl is there"},
    {"judgement": Judgement(status=Status.BROKEN, blame=Blame.HARNESS, why="python3 is there")},
])  # fmt: skip
def test_anything_else_is_not_excused(tmp_path: Path, other: dict[str, str]) -> None:
    arguments = {"judgement": FAILED, **other}
    assert excused(known(tmp_path), **arguments) == arguments["judgement"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("day", "status"), [
    (datetime.date(2026, 12, 1), Status.KNOWN), (datetime.date(2026, 12, 2), Status.EXPIRED),
])  # fmt: skip
def test_it_passes_until_its_last_day(tmp_path: Path, day: datetime.date, status: Status) -> None:
    judgement = excused(known(tmp_path, on=day))
    assert judgement.status is status
    assert status is Status.KNOWN or judgement.why.startswith("known issue expired on 2026-12-01 (")


def test_extensions_are_counted_and_shown(tmp_path: Path) -> None:
    extended = ISSUE + "extensions = [{on = 2026-11-20, expires = 2027-02-01, why = 'needs a new base'}]\n"
    judgement = excused(known(tmp_path, extended, on=datetime.date(2027, 1, 31)))
    assert judgement.why.startswith("known issue until 2027-02-01, extended once (")
    claims = [ClaimRecord(id="no-python", promise="", status=Status.NOT_JUDGED)]
    record = known_issues.record(known(tmp_path, extended), claims, profile="lifsea-3.4", version="3.4.0")
    assert record is not None and [(each.extensions, each.expires) for each in record.issues] == [(1, "2027-02-01")]


def test_of_two_issues_the_unexpired_one_decides(tmp_path: Path) -> None:
    late = ISSUE.replace("issues.example/1", "issues.example/2").replace("2026-12-01", "2026-11-01")
    assert excused(known(tmp_path, late + ISSUE)).issue == "https://issues.example/1"


@pytest.mark.parametrize(("status", "issue", "state"), [
    (Status.PASSED, "", IssueState.GONE), (Status.FAILED, "", IssueState.NOT_SEEN),
    (Status.BROKEN, "", IssueState.NOT_SEEN),
    (Status.NOT_JUDGED, "", IssueState.NOT_SEEN), (Status.KNOWN, "https://issues.example/1", IssueState.SEEN),
    (Status.EXPIRED, "https://issues.example/1", IssueState.EXPIRED),
])  # fmt: skip
def test_the_state_of_an_issue(tmp_path: Path, status: Status, issue: str, state: IssueState) -> None:
    claims = gate.settle({"no-python": ""}, [TestOutcome(claim="no-python", test="t", status=status, issue=issue)])
    record = known_issues.record(known(tmp_path), claims, profile="lifsea-3.4", version="3.4.0")
    assert record is not None and [each.state for each in record.issues] == [state]
    elsewhere = known_issues.record(known(tmp_path), claims, profile="lifsea-3.4", version="3.5.0")
    assert elsewhere is not None and elsewhere.issues[0].state is IssueState.NOT_APPLICABLE


@pytest.mark.parametrize(("change", "complaint"), [
    (("2026-12-01", "2026-12-31"), "2026-12-31 is not within 90 days after 2026-10-01"),
    (("2026-12-01", "2026-09-01"), "2026-09-01 is not within 90 days"),
    (("2026-10-01", "2026-11-26"), "begins on 2026-11-26, after today"),
    (("no-python", "no-pythons"), "issue 1, claim: unknown claim no-pythons"),
    ((">=3.4.0", "3.4-ish"), "issue 1, versions: '3.4-ish,<3.4.7' is not a version specifier"),
    (("is there'", "is (there'"), "is not a regular expression"),
    (("python3(\\.\\d+)? is there", ".*"), "'.*' matches every failure"),
    (("https://issues.example/1", "issue 1"), "issue 1, link: "),
    (('owner = "kernel team"\n', ""), "issue 1, owner: Field required"),
    (("versions", "version"), "issue 1, version: Extra inputs"),
    (("[[issue]]", "[[issues]]"), "content other than"),
    (("[[issue]]", "[[issue]"), "not TOML"),
    (("[[issue]]", "[[issue]]\nextensions = [{on = 2026-11-20, expires = 2027-03-01, why = 'x'}]"),
     "2027-03-01 is not within 90 days after 2026-11-20"),
    (("[[issue]]", "[[issue]]\nextensions = [{on = 2026-09-20, expires = 2026-12-01, why = 'x'}]"),
     "not in order of time"),
])  # fmt: skip
def test_an_invalid_file_is_refused(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    with pytest.raises(CallerError) as raised:
        known(tmp_path, ISSUE.replace(*change))
    assert complaint in raised.value.one_line and "\n" not in raised.value.one_line
    assert raised.value.hint


def test_no_file_is_no_issue_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    assert load([], on=TODAY).issues == ()
    with pytest.raises(CallerError, match="cannot be read"):
        load([tmp_path / "none.toml"], on=TODAY)


def test_a_bad_file_stops_the_run_before_anything_boots(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(machine): pass")
    image = raw_image(pytester.path / "disk.raw")
    path = written(pytester.path, ISSUE.replace("2026-12-01", "2027-12-01"))
    result = pytester.runpytest_subprocess("--image", str(image), "--known-issues", str(path))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *known-issues.toml: issue 1: *not within 90 days* (hint: *"])


def test_the_example_in_the_documentation_is_one() -> None:
    text = (ROOT / "docs/verdict.md").read_text("utf-8")
    example = text.partition("```toml\n")[2].partition("```")[0]
    assert "[[issue]]" in example and "extensions" in example
    (issue,) = tomllib.loads(example)["issue"]
    assert Issue.model_validate(issue).extensions
