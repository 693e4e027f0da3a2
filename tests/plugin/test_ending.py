"""A run whose end fails, or whose reports another run writes, is never a verdict on the image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from lifsea_testbed.report.directory import ReportsDirectory
from tests.support.boot_sector import raw_image
from tests.support.quick import lay_out

SUITE = """
import pytest
from lifsea_testbed import claim

@pytest.mark.parametrize("name", ["boots-to-ready", "no-sshd", "no-python", "shell-kept"])
def test_nothing(name): {body}

@claim("boots-to-ready")
def test_boot(): pass
@claim("no-sshd")
def test_sshd(): pass
@claim("no-python")
def test_python(): pass
@claim("shell-kept")
def test_shell(): pass
"""
FULL = "raise OSError(28, 'No space left on device')"
Start = Callable[..., pytest.RunResult]


@pytest.fixture
def start(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs judges of four claims, none of which needs a machine, and all of which pass."""
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))

    def run(*options: str, body: str = "pass", **files: str) -> pytest.RunResult:
        always = lay_out(pytester.path, SUITE.format(body=body), **files)
        return pytester.runpytest_subprocess(*always, "-p", "no:hypothesispytest", *options)

    return run


@pytest.mark.parametrize(("body", "conftest"), [
    ("__import__('os').makedirs('reports/junit.xml', exist_ok=True)", ""),
    ("pass", f"def pytest_lifsea_report(document, reports):\n    {FULL}\n"),
    ("pass", f"def pytest_sessionfinish():\n    {FULL}\n"),
    ("pass", "def pytest_sessionfinish():\n    raise KeyError('a defect of a plugin')\n"),
    ("pass", f"from lifsea_testbed import MachinePool\ndef close(self):\n    {FULL}\nMachinePool.close = close\n"),
])  # fmt: skip
def test_a_run_whose_end_fails_is_broken(start: Start, pytester: pytest.Pytester, body: str, conftest: str) -> None:
    result = start(body=body, **({"conftest": conftest} if conftest else {}))
    assert result.ret == 6
    assert result.outlines[-1].startswith("verdict: broken - quick: 4 passed of 4 claims; the end of the run failed: ")
    gate = json.loads((pytester.path / "reports/gate.json").read_text())
    assert (gate["verdict"], gate["exit_status"], len(gate["troubles"])) == ("broken", 6, 1)


def test_a_failure_is_one_however_the_run_ends(start: Start, pytester: pytest.Pytester) -> None:
    result = start(body="assert name != 'no-sshd'", conftest=f"def pytest_sessionfinish():\n    {FULL}\n")
    assert result.ret == 1 and result.outlines[-1].startswith("verdict: fail - quick: ")
    assert json.loads((pytester.path / "reports/gate.json").read_text())["verdict"] == "fail"


def test_a_verdict_that_cannot_be_written_is_not_left_half(start: Start, pytester: pytest.Pytester) -> None:
    """The name of gate.json is taken by a directory, as if the disk were full."""
    result = start(body="__import__('pathlib').Path('reports/gate.json/x').mkdir(parents=True, exist_ok=True)")
    assert result.ret == 6
    assert result.outlines[-1].startswith("verdict: broken - ")
    assert result.outlines[-1].endswith("(no report could be written)")
    assert [path.name for path in (pytester.path / "reports").glob(".gate*")] == []


def test_a_name_that_no_report_can_hold_is_refused(pytester: pytest.Pytester, start: Start) -> None:
    name = "bad\udcff.raw"
    raw_image(pytester.path / name)
    result = start("--next-image", name)
    assert result.ret == 4
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: 'bad\\udcff.raw': not UTF-8") and "(hint: rename the file)" in line


def test_two_runs_do_not_share_their_reports(start: Start, pytester: pytest.Pytester) -> None:
    (pytester.path / "reports").mkdir()
    (pytester.path / "reports/gate.json").write_text("of the run before")
    other = ReportsDirectory(pytester.path / "reports")
    result = start()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --reports *reports: another run writes its reports there (hint: *)"])
    assert (pytester.path / "reports/gate.json").read_text() == "of the run before"
    other.close()
    assert start().ret == 0


@pytest.mark.parametrize("plugin", ["allure_pytest", "terminal"])
def test_a_plugin_that_is_switched_off_is_not_missed(start: Start, pytester: pytest.Pytester, plugin: str) -> None:
    result = start("-p", f"no:{plugin}")
    assert result.ret == 0
    assert json.loads((pytester.path / "reports/gate.json").read_text())["verdict"] == "pass"
    assert (pytester.path / "reports/allure").exists() == (plugin != "allure_pytest")


@pytest.mark.parametrize("option", ["--markers", "--fixtures", "--fixtures-per-test", "--cache-show", "--collect-only",
                                    "--setup-plan", "--help", "--version"])  # fmt: skip
def test_what_runs_no_test_touches_no_report_and_needs_no_image(pytester: pytest.Pytester, option: str) -> None:
    always = lay_out(pytester.path, SUITE.format(body="pass"))
    (pytester.path / "reports").mkdir()
    (pytester.path / "reports/gate.json").write_text("of the run before")
    for given in (always[:-2], []):
        result = pytester.runpytest_subprocess(*given, "-p", "no:hypothesispytest", option)
        assert result.ret == 0
        result.stdout.no_fnmatch_line("verdict:*")
    assert [path.name for path in (pytester.path / "reports").iterdir()] == ["gate.json"]
    assert (pytester.path / "reports/gate.json").read_text() == "of the run before"


def test_a_reader_that_has_enough_changes_no_verdict(pytester: pytest.Pytester) -> None:
    """As in `pytest | head`: Python would end with status 1 when the pipe is closed."""
    always = lay_out(pytester.path, SUITE.format(body="pass"))
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "pytest", *always, "-p", "no:hypothesispytest"]
    run = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    os.close(reader)
    assert run.communicate()[1].splitlines()[-1].startswith("verdict: broken - ")
    assert run.returncode == 6


def test_an_installation_that_is_not_whole_is_no_failure(start: Start) -> None:
    """Python's own status for an exception that nobody handles is 1."""
    result = start(conftest="import sys\nsys.modules['pydantic'] = None\n")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: the test bed is not installed as a whole: *pydantic*(hint: pip install *)"])
