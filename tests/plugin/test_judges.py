"""A claim passes only if every test that judges it was run: whatever leaves one out, the run names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.cli.main import main
from tests.support.quick import lay_out

ACCESS = """
import os
import pytest
from lifsea_testbed import claim

@claim("no-sshd")
def test_sshd():
    assert "SSHD" not in os.environ

@claim("no-sshd")
@pytest.mark.slow
def test_keys():
    pass

@claim("no-python")
@pytest.mark.parametrize("name", ["python", "pypy"])
def test_python(name):
    pass
"""
BOOT = """
from lifsea_testbed import claim as promise

@promise("boots-to-ready")
def test_boot():
    pass

@promise("no-sshd")
def test_speaks():
    pass

class TestShell:
    pytestmark = [promise("shell-kept")]

    def test_shell(self):
        pass

class Helper:
    @promise("shell-kept")
    def test_nothing(self):
        pass
"""
SPEAKS, SHELL, BOOTS = "test_boot.py::test_speaks", "test_boot.py::TestShell::test_shell", "test_boot.py::test_boot"
SSHD, KEYS = "test_suite.py::test_sshd", "test_suite.py::test_keys"
PYTHON, PYPY = "test_suite.py::test_python[python]", "test_suite.py::test_python[pypy]"
EVERY_OTHER = {"boots-to-ready": [BOOTS], "shell-kept": [SHELL], "no-python": [PYTHON, PYPY]}
Start = Callable[..., pytest.RunResult]


@pytest.fixture
def start(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs two files of judges of four claims, none of which needs a machine."""
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    pytester.makeini("[pytest]\nmarkers =\n    slow: takes long\n")

    def run(*options: str, suite: str = ACCESS, boot: str = BOOT, **files: str) -> pytest.RunResult:
        always = lay_out(pytester.path, suite, test_boot=boot, **files)
        always.remove("no:cacheprovider")
        return pytester.runpytest_subprocess(*always, "no:hypothesispytest", *options)

    return run


def gate(place: Path, reports: str = "reports") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((place / reports / "gate.json").read_text())
    return document


def missing(document: dict[str, Any]) -> dict[str, list[str]]:
    """The judges that were not run; their claims are not judged, and every other one is kept."""
    assert {claim["id"] for claim in document["claims"] if claim["status"] == "not judged"} == \
        {claim["id"] for claim in document["claims"] if claim["missing"]}  # fmt: skip
    return {claim["id"]: claim["missing"] for claim in document["claims"] if claim["missing"]}


def test_a_run_of_every_judge_passes(start: Start, pytester: pytest.Pytester) -> None:
    result = start()
    assert result.ret == 0 and missing(gate(pytester.path)) == {}
    assert result.outlines[-1] == "verdict: pass - quick: 4 passed of 4 claims; every claim is kept (reports/gate.json)"


@pytest.mark.parametrize(("options", "left_out"), [
    (["-k", "not keys"], {"no-sshd": [KEYS]}),
    (["-m", "not slow"], {"no-sshd": [KEYS]}),
    (["--deselect", SPEAKS, "-n", "2"], {"no-sshd": [SPEAKS]}),
    (["--ignore", "test_boot.py"], {"no-sshd": [SPEAKS], "boots-to-ready": [BOOTS], "shell-kept": [SHELL]}),
    (["test_suite.py"], {"no-sshd": [SPEAKS], "boots-to-ready": [BOOTS], "shell-kept": [SHELL]}),
    ([BOOTS, "test_suite.py", SPEAKS], {"shell-kept": [SHELL]}),
    ([PYPY, "test_suite.py::test_sshd", "test_suite.py::test_keys", "test_boot.py"], {"no-python": [PYTHON]}),
    (["-k", "none"], {"no-sshd": [SPEAKS, KEYS, SSHD], **EVERY_OTHER}),
    (["--setup-only", "-n", "1"], {"no-sshd": [SPEAKS, KEYS, SSHD], **EVERY_OTHER}),
])  # fmt: skip
def test_a_judge_that_is_left_out_is_missing(
    start: Start, pytester: pytest.Pytester, options: list[str], left_out: dict[str, list[str]]
) -> None:
    result = start(*options)
    document = gate(pytester.path)
    assert missing(document) == {claim: sorted(tests) for claim, tests in left_out.items()}
    assert (result.ret, document["verdict"], document["not_judged"]) == (7, "not judged", {"not run": len(left_out)})
    assert document["why"].startswith("not run: ") and min(left_out) in document["why"]
    assert result.outlines[-1].startswith("verdict: not judged - quick: ")


@pytest.mark.parametrize("left_out", [
    '@pytest.mark.skip("later")', '@pytest.mark.skipif(True, reason="later")', "@pytest.mark.xfail(run=False)",
])  # fmt: skip
def test_a_judge_that_a_mark_leaves_out_is_missing(start: Start, pytester: pytest.Pytester, left_out: str) -> None:
    result = start(suite=ACCESS.replace("@pytest.mark.slow", left_out))
    assert result.ret == 7 and missing(gate(pytester.path)) == {"no-sshd": [KEYS]}


@pytest.mark.parametrize("statement", ['pytest.skip("no way")', 'pytest.xfail("it never works")'])
def test_a_judge_that_gives_up_is_missing(start: Start, pytester: pytest.Pytester, statement: str) -> None:
    result = start(suite=ACCESS.replace('assert "SSHD" not in os.environ', statement))
    assert result.ret == 7 and missing(gate(pytester.path)) == {"no-sshd": [SSHD]}


def test_the_judges_of_a_file_that_skips_itself_are_missing(start: Start, pytester: pytest.Pytester) -> None:
    result = start(boot="import pytest\npytest.skip('not here', allow_module_level=True)\n" + BOOT)
    assert result.ret == 7
    assert missing(gate(pytester.path)) == {"no-sshd": [SPEAKS], "boots-to-ready": [BOOTS], "shell-kept": [SHELL]}


@pytest.mark.parametrize("option", ["--lf", "--sw"])
def test_what_ran_last_time_did_not_run_now(
    start: Start, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """--lf does not collect files without a failure at all; --sw goes on after the test that failed."""
    monkeypatch.setenv("SSHD", "is there")
    assert start("--sw").ret == 1
    monkeypatch.delenv("SSHD")
    assert start(option).ret == 7
    left_out = missing(gate(pytester.path))
    assert left_out["boots-to-ready"] == [BOOTS] and SPEAKS in left_out["no-sshd"]


def test_what_pytest_counts_as_failed_is_no_pass(start: Start, pytester: pytest.Pytester) -> None:
    result = start(suite=ACCESS.replace("@pytest.mark.slow", "@pytest.mark.xfail(strict=True)"))
    claims = {claim["id"]: claim for claim in gate(pytester.path)["claims"]}
    assert (result.ret, claims["no-sshd"]["status"], claims["no-sshd"]["blame"]) == (6, "broken", "harness")
    assert claims["no-sshd"]["why"] == "pytest counts it as failed: [XPASS(strict)]"


@pytest.mark.parametrize("options", [[], ["-n", "1"]])
def test_a_stop_at_the_first_failure_is_a_failure(
    start: Start, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("SSHD", "is there")
    result = start("-x", "test_suite.py", "test_boot.py", *options)
    claims = {claim["id"]: claim for claim in gate(pytester.path)["claims"]}
    assert (result.ret, claims["no-sshd"]["status"]) == (1, "failed")
    assert claims["no-sshd"]["missing"] == [SPEAKS, KEYS] and claims["no-python"]["status"] == "not judged"


@pytest.mark.parametrize("options", [["--continue-on-collection-errors"], [], ["-n", "1"]])
def test_a_file_that_cannot_be_collected_breaks_the_run(
    start: Start, pytester: pytest.Pytester, options: list[str]
) -> None:
    result = start(*options, boot=f"import nothing_of_the_kind\n{BOOT}")
    document = gate(pytester.path)
    assert (result.ret, document["verdict"]) == (6, "broken")
    assert "test_boot.py could not be collected" in document["troubles"]


def test_a_claim_alone_needs_its_own_judges_alone(start: Start, pytester: pytest.Pytester) -> None:
    result = start("--claim", "no-python")
    assert (result.ret, missing(gate(pytester.path))) == (7, {})
    assert gate(pytester.path)["why"] == "only no-python was selected; every other claim is open"
    start("--claim", "no-python", "-k", "not pypy")
    assert missing(gate(pytester.path)) == {"no-python": [PYPY]}


@pytest.mark.parametrize("status", [0, 42])
def test_a_test_that_ends_the_run_breaks_it(start: Start, pytester: pytest.Pytester, status: int) -> None:
    result = start(test_zzz=f"import pytest\ndef test_last(): pytest.exit('enough', returncode={status})\n")
    assert (result.ret, gate(pytester.path)["verdict"]) == (6, "broken")
    assert gate(pytester.path)["why"].startswith("pytest stopped early (")


KILLED = """
import os
import signal

def test_last():
    os.kill(os.getpid(), signal.{signal})
"""


@pytest.mark.parametrize(("name", "status"), [("SIGKILL", -9), ("SIGINT", 2)])
def test_a_shard_that_is_killed_is_broken_in_the_merged_verdict(
    start: Start, pytester: pytest.Pytester, name: str, status: int
) -> None:
    """Although every judge of every claim has passed by then."""
    result = start("--shard", "1/1", test_zzz=KILLED.format(signal=name))
    assert result.ret == status
    document = gate(pytester.path)
    assert {claim["status"] for claim in document["claims"]} == {"passed"}
    assert (document["verdict"], document["finished"]) == ("interrupted" if name == "SIGINT" else "broken", False)
    assert document["troubles"]
    merged = str(pytester.path / "merged")
    assert main(["gate", "merge", str(pytester.path / "reports/gate.json"), "-o", merged]) == 6


@pytest.mark.parametrize(("options", "verdict", "left_out"), [
    ([], 0, {}), (["-k", "not keys"], 7, {"no-sshd": [KEYS]}),
])  # fmt: skip
def test_shards_have_run_what_all_of_them_have_run(
    start: Start, pytester: pytest.Pytester, options: list[str], verdict: int, left_out: dict[str, list[str]]
) -> None:
    for number in (1, 2):
        assert start("--shard", f"{number}/2", "--reports", str(number), *options).ret == 7
    files = [str(pytester.path / str(number) / "gate.json") for number in (1, 2)]
    assert main(["gate", "merge", *files, "-o", str(pytester.path / "merged")]) == verdict
    assert missing(gate(pytester.path, "merged")) == left_out
