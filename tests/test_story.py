"""One run with every kind of outcome: all its outputs report the same."""

from __future__ import annotations

import datetime
import json
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import xmlschema

from lifsea_testbed.perf.history import History
from lifsea_testbed.report import document
from tests.support import JUNIT_SCHEMA
from tests.support.boot_sector import raw_image

HERE = Path(__file__).parent
#: Nothing boots: the profile is given, and no test uses a machine.
SUITE = '''
import pytest
from pathlib import Path
from lifsea_testbed import claim
from lifsea_testbed.errors import TestbedError, CommandFailed, HostError, NotJudged, Reason

@pytest.fixture
def profile(bench):
    return bench.profile

@claim("no-sshd")
def test_sshd():
    """There is none."""
    assert ["/usr/sbin/sshd"] == []

@claim("no-python")
def test_python():
    """There is none."""
    raise CommandFailed("python3 is there", evidence="/usr/bin/python3.6")

@claim("no-package-manager")
def test_package_manager():
    """There is none."""
    raise CommandFailed("rpm is there")

@claim("nodes-identical")
def test_identity():
    """Each machine has its own identity."""
    seen = Path("seen")
    if not seen.exists():
        seen.touch()
        raise HostError("the host had a hiccup")

@claim("boot-two-seconds")
def test_boot_time(measure):
    """It is short."""
    measure("boot", 2.5, unit="s", better="lower")
    raise NotJudged("a wall clock says nothing under emulation", Reason.HOST)

@claim("no-initramfs")
def test_initramfs():
    """There is none."""
    raise TestbedError("the restored clock is wrong")

@claim("few-units")
def test_units():
    """There are few."""
    raise NotJudged("no list was given", Reason.OPTION)

@claim("no-logind")
def test_logind():
    """There is none."""
    pytest.fail("logind is there")

@claim("no-resolved")
def test_resolved():
    """There is none."""
    pytest.skip("not today")

@pytest.mark.hardware_model
def test_memory():
    """There is as much as the type has."""
    assert 4096 == 8192

@claim("no-default-password")
def test_keys():
    """There are none."""
'''
CLAIMS = ("no-sshd", "no-python", "no-package-manager", "nodes-identical", "boot-two-seconds", "no-initramfs",
          "few-units", "no-logind", "no-resolved", "no-default-password")  # fmt: skip
WORDS = ("failed", "known", "expired", "flaky", "not judged by host", "broken", "not judged by option", "failed",
         "not judged", "passed")  # fmt: skip
NOT_JUDGED = tuple(word for word in WORDS if word.startswith("not judged"))
LINK = "https://issues.example/"


def issue(claim: str, signature: str, *, since: int, expires: int) -> str:
    """A known issue, with its days counted from today."""
    first, last = (datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=days)
                   for days in (since, expires))  # fmt: skip
    return (f'[[issue]]\nclaim = "{claim}"\nprofile = "story"\nsignature = "{signature}"\nowner = "kernel team"\n'
            f'link = "{LINK}{claim}"\nsince = {first}\nexpires = {last}\n')  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Story:
    """The output of a run: the lines on the terminal, the exit status, and the reports."""

    lines: list[str]
    status: int
    reports: Path

    @property
    def gate(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.reports / "gate.json").read_text())
        return document


def judge(place: Path, *options: str, suite: str = SUITE, reports: str = "reports", **environment: str) -> Story:
    """Runs the suite in that directory."""
    place.joinpath("test_suite.py").write_text(suite)
    place.joinpath("story.toml").write_text(
        f'extends = "reference"\nname = "story"\nclaims = {json.dumps(CLAIMS)}\n'
    )
    place.joinpath("known-issues.toml").write_text(
        issue("no-python", r"python3\\.6", since=-10, expires=20)
        + issue("no-package-manager", "rpm is there", since=-80, expires=-3)
        + issue("no-default-password", "root has one", since=-80, expires=3)
    )
    place.joinpath("seen").unlink(missing_ok=True)
    raw_image(place / "disk.raw")
    command = [sys.executable, "-m", "pytest", "--image", "disk.raw", "--profile", "story.toml", "--accel", "tcg",
               "--reruns", "1", "--reports", reports, "-p", "no:cacheprovider", *options]  # fmt: skip
    # Where these are set, pytest shortens no line of its own summary.
    inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    ended = subprocess.run(command, cwd=place, env={**inherited, "COLUMNS": "80", **environment}, text=True,
                           capture_output=True, check=False)  # fmt: skip
    return Story(lines=ended.stdout.splitlines(), status=ended.returncode, reports=place / reports)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = tmp_path_factory.mktemp("story")
    return judge(place, "--history", "history.db", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(place / "step.md"))


def in_terminal(story: Story) -> dict[str, str]:
    start = next(number for number, line in enumerate(story.lines) if re.fullmatch("[= ]*claims[= ]*", line))
    rows = [re.match(r" *([a-z ]+?)  ([a-z-]+)(?: \((\w+)\))?(  |$)", line) for line in story.lines[start + 1 :]]
    found = {row[2]: f"{row[1]} by {row[3]}" if row[3] else row[1] for row in rows if row}
    words = {claim: word for claim, word in found.items() if claim in CLAIMS and word in WORDS}
    assert "    passed  1 claims" in story.lines and "hardware model: 1 test, 1 broken" in story.lines
    return {"no-default-password": "passed", **words}


def in_gate(story: Story) -> dict[str, str]:
    claims = json.loads((story.reports / "gate.json").read_text())["claims"]
    return {claim["id"]: " by ".join(filter(None, (claim["status"], claim["reason"]))) for claim in claims}


def in_junit(story: Story) -> dict[str, str]:
    kinds = {"failure": ("failed", "expired"), "error": ("broken",), "skipped": ("known", *NOT_JUDGED),
             "flakyError": ("flaky",), "flakyFailure": ("flaky",)}  # fmt: skip
    words = {}
    for case in ElementTree.parse(story.reports / "junit.xml").iter("testcase"):
        element = next((child for child in case if child.tag in kinds), None)
        word = element.attrib["message"].partition(":")[0] if element is not None else "passed"
        assert element is None or word in kinds[element.tag]
        words[case.attrib["classname"]] = word
    assert words.pop("test_suite") == "broken"
    return words


def in_allure(story: Story) -> dict[str, str]:
    kinds = {"failed": ("failed", "expired"), "broken": ("broken",), "skipped": ("known", *NOT_JUDGED),
             "passed": ("passed", "flaky")}  # fmt: skip
    words = {}
    results = [json.loads(path.read_text()) for path in (story.reports / "allure").glob("*-result.json")]
    for each in sorted(results, key=lambda each: each["start"]):
        labels = {label["name"]: label["value"] for label in each["labels"]}
        word = " by ".join(filter(None, (labels["verdict"], labels.get("reason"))))
        assert word in kinds[each["status"]]
        assert word == "passed" or each["statusDetails"]["message"].startswith(f"{word}: ")
        words[labels.get("claim", each["name"])] = word
    assert words.pop("test_memory") == "broken"
    return words


def in_markdown(story: Story) -> dict[str, str]:
    text = (story.reports / "summary.md").read_text()
    assert (story.reports.parent / "step.md").read_text() == f"{text}\n"
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z ]+) \| [a-z]* \| .* \|$", text, re.MULTILINE)
    kept = re.search(r"<summary>passed</summary>\n\n(.*)\n", text)
    words = {claim: word for claim, word in rows if claim in CLAIMS}
    return {**words, **(dict.fromkeys(re.findall("`(.+?)`", kept[1]), "passed") if kept else {})}


def in_annotations(story: Story) -> dict[str, str]:
    levels = {"error": ("failed", "expired", "broken"), "warning": ("known", "flaky"), "notice": NOT_JUDGED}
    found = [re.fullmatch(r"::(\w+) file=test_suite.py,line=\d+,title=([a-z ]+)%3A ([a-z -]+)::.+", line)
             for line in story.lines]  # fmt: skip
    assert all(match[2] in levels[match[1]] for match in found if match)
    words = {match[3]: match[2] for match in found if match}
    assert words.pop("hardware model") == "broken"
    return {"no-default-password": "passed", **words}


READERS = {"terminal": in_terminal, "gate.json": in_gate, "JUnit": in_junit, "Allure": in_allure,
           "Markdown": in_markdown, "annotations": in_annotations}  # fmt: skip


def test_every_output_has_the_same_statuses(story: Story) -> None:
    expected = dict(zip(CLAIMS, WORDS, strict=True))
    assert {output: read(story) for output, read in READERS.items()} == dict.fromkeys(READERS, expected)
    assert story.status == 1


def test_the_story_in_words(story: Story) -> None:
    gate, claims = story.gate, {claim["id"]: claim for claim in story.gate["claims"]}
    blames = [claims[claim]["blame"] for claim in CLAIMS]
    assert blames == ["product", "product", "product", "host", None, "harness", None, "product", None, None]
    assert (gate["verdict"], gate["exit_status"]) == ("fail", 1)
    assert gate["why"] == "not kept: no-sshd, no-package-manager, no-logind"
    assert gate["not_judged"] == {"not run": 1, "option": 1, "host": 1}
    assert [(test["status"], test["blame"]) for test in gate["hardware"]] == [("broken", "harness")]
    assert claims["no-resolved"]["missing"] == ["test_suite.py::test_resolved"]
    assert claims["no-resolved"]["tests"][0]["why"] == "not run: not today"
    why = rf"known issue expired on \d{{4}}-\d\d-\d\d \({LINK}no-package-manager, kernel team\): rpm is there"
    assert re.fullmatch(why, claims["no-package-manager"]["why"])
    assert claims["no-python"]["issue"] == f"{LINK}no-python"
    assert [attempt["status"] for attempt in claims["nodes-identical"]["tests"][0]["attempts"]] == ["broken", "passed"]
    assert len(claims["no-sshd"]["tests"][0]["attempts"]) == 1
    assert [figure["value"] for figure in claims["boot-two-seconds"]["figures"]] == [2.5]


def test_known_issues_are_accounted_for(story: Story) -> None:
    states = {issue["claim"]: issue["state"] for issue in story.gate["known_issues"]["issues"]}
    assert states == {"no-python": "seen", "no-package-manager": "expired", "no-default-password": "gone"}
    (gone,) = [line for line in story.lines if line.startswith("      gone  no-default-password  remove the known")]
    assert len(gone) == 80


def test_flakes_are_counted_in_the_history(story: Story) -> None:
    path = story.reports.parent / "history.db"
    with History(str(path)) as history:
        kept = [sample for sample in history.samples() if sample.metric.name == "attempts-until-passed"]
    assert [(sample.test, sample.value) for sample in kept] == [("test_suite.py::test_identity", 2.0)]
    (query,) = re.findall(r"^(SELECT .*;)$", (HERE.parent / "docs/verdict.md").read_text(), re.MULTILINE)
    with sqlite3.connect(path) as connection:
        assert connection.execute(query).fetchall() == [("test_suite.py::test_identity", 1)]
    connection.close()


def test_what_is_written_is_valid(story: Story) -> None:
    """By the published schema of gate.json, and by the schema that Jenkins has for JUnit."""
    jsonschema.Draft202012Validator(document.schema()).validate(story.gate)
    xmlschema.XMLSchema(str(JUNIT_SCHEMA)).validate(str(story.reports / "junit.xml"))
    path = story.reports / "gate.json"
    assert document.read(path).text() == path.read_text()


def test_the_summary_fits_a_small_screen_and_is_plain_in_a_pipe(story: Story) -> None:
    start = next(number for number, line in enumerate(story.lines) if " claims " in line)
    summary = [line for line in story.lines[start:] if not line.startswith("::")]
    assert sum(max(1, -(-len(line) // 80)) for line in summary) <= 24
    assert not any("\x1b" in line for line in story.lines)


def test_every_failure_leaves_evidence(story: Story) -> None:
    tests = [test for claim in story.gate["claims"] for test in claim["tests"]]
    loud = [test for test in tests if test["status"] in ("failed", "expired", "known", "broken", "flaky")]
    assert all(test["evidence"] for test in loud) and len(loud) == 6
    about = (story.reports / loud[0]["evidence"][0] / "about.txt").read_text()
    assert "\nreproduce: pytest test_suite.py::test_sshd --image disk.raw --profile story.toml" in about
    assert re.search(r"\nversions: .*qemu \d", about)


def test_the_same_results_give_the_same_file(story: Story, tmp_path: Path) -> None:
    """In any order of the tests, and in any number of processes."""
    head, *tests = SUITE.split("@claim")
    other = judge(tmp_path, "-n", "2", suite="@claim".join([head, *tests[::-1]]))
    assert (other.reports / "gate.json").read_bytes() == (story.reports / "gate.json").read_bytes()


def test_a_flake_can_fail_the_gate_and_colours_are_for_terminals(tmp_path: Path) -> None:
    story = judge(tmp_path, "--claim", "nodes-identical", "--fail-on-flaky", "--color=yes")
    assert story.status == 1
    assert story.lines[-1].startswith("verdict: fail - story: 1 flaky of 1 claims; flaky: test_suite.py::test_identity")
    assert any(line.startswith("\x1b[33m     flaky  nodes-identical") for line in story.lines)


def test_a_failure_of_the_product_is_run_again_only_on_request(story: Story, tmp_path: Path) -> None:
    failed = judge(tmp_path, "--claim", "no-sshd", "--rerun-product").gate["claims"][0]
    assert (failed["status"], len(failed["tests"][0]["attempts"])) == ("failed", 2)
