"""The plugin as its users see it: command lines, verdicts, leftovers; on disks of one boot sector."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from lifsea_testbed.disk.image_formats import DiskFormat
from tests.support.boot_sector import raw_image
from tests.support.disks import converted

SUITE = '''
from lifsea_testbed import claim

@claim("boots-to-ready")
def test_boots(machine):
    """It boots."""
    machine.wait_until_ready()

@claim("no-sshd")
def test_no_sshd(own_machine):
    """It has none."""
    assert own_machine.guest.files.executables_named(["sshd"]) == []
'''
PROFILE = """
extends = "reference"
name = "quick"
claims = ["boots-to-ready", "no-sshd"]
[boot]
shell_within = 0.5
"""
USAGE_ERROR = 4


@pytest.fixture
def place(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory with a small suite and profile; temporary files go below it."""
    pytester.makepyfile(test_suite=SUITE)
    (pytester.path / "quick.toml").write_text(PROFILE)
    (pytester.path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    return pytester


def judge(place: pytest.Pytester, image: Path | str, *options: str) -> pytest.RunResult:
    always = ["--image", str(image), "--profile", "quick.toml", "-p", "no:cacheprovider"]
    return place.runpytest_subprocess(*always, *options)


def gate(place: pytest.Pytester) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((place.path / "reports/gate.json").read_text())
    return document


def assert_nothing_is_left(place: pytest.Pytester) -> None:
    assert list((place.path / "tmp").iterdir()) == []
    assert [child for child in psutil.Process().children(recursive=True) if child.name().startswith("qemu")] == []


def test_without_an_image_the_plugin_does_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


UNUSED = """
import sys
def test_one():
    heavy = {"sqlalchemy", "numpy", "rich", "pydantic", "qemu", "psutil", "pexpect", "minisign", "cryptography"}
    assert sorted(heavy & set(sys.modules)) == []
    ours = sorted(name for name in sys.modules if name.startswith("lifsea_testbed."))
    light = ("entry", "fixtures", "hooks", "items", "options", "ordering")
    assert ours == ["lifsea_testbed.plugin", *(f"lifsea_testbed.plugin.{name}" for name in light)]
"""


def test_a_run_that_does_not_use_it_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(UNUSED)
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_suites_without_an_image_are_refused(place: pytest.Pytester) -> None:
    result = place.runpytest_subprocess()
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *--image*"])


def test_suites_can_be_listed_without_an_image(place: pytest.Pytester) -> None:
    result = place.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_boots*"])


@pytest.mark.parametrize("option", ["--markers", "--fixtures", "--fixtures-per-test", "--cache-show", "--collect-only",
                                    "--version"])  # fmt: skip
def test_what_runs_no_test_leaves_the_last_verdict(place: pytest.Pytester, option: str) -> None:
    (place.path / "reports").mkdir()
    (place.path / "reports/gate.json").write_text("the last verdict")
    result = place.runpytest_subprocess("--image", str(raw_image(place.path / "disk.raw")), "--profile", "quick.toml",
                                        "--accel", "tcg", option)  # fmt: skip
    assert result.ret == 0 and "verdict: " not in result.stdout.str()
    assert [path.name for path in (place.path / "reports").iterdir()] == ["gate.json"]
    assert (place.path / "reports/gate.json").read_text() == "the last verdict"


BACKED = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "backed.qcow2"]


@pytest.mark.parametrize(("options", "complaint"), [
    (["--image", "none.qcow2"], "none.qcow2: no such image (hint: *"),
    (["--image", "."], "*: a directory (hint: *"),
    (["--image", "quick.toml"], "*not a disk image*(hint: *"),
    (["--image", "truncated.qcow2"], "*truncated or corrupt*(hint: *"),
    (["--image", "backed.qcow2"], "*backing file*(hint: *"),
    (["--image", "disk.raw", "--next-image", "none"], "none: no such image (hint: *"),
    (["--image", "disk.raw", "--profile", "lifsee"], "unknown profile 'lifsee' (hint: *"),
    (["--image", "disk.raw", "--profile", "none.toml"], "none.toml: no such profile file (hint: *"),
    (["--image", "disk.raw", "--claim", "flies"], "--claim flies: unknown claim (hint: *"),
    (["--image", "disk.raw", "--power-cuts", ""], "--power-cuts : not a duration (hint: 90s, 30m or 2h)"),
    (["--image", "disk.raw", "--power-cuts", "0m"], "--power-cuts 0m: not a duration (hint: *"),
    (["--image", "disk.raw", "--data-disk", "-5"], "--data-disk -5: not a whole number from 0 to 65536"),
    (["--image", "disk.raw", "--data-disk=-1"], "--data-disk -1: not a whole number from 0 to 65536"),
    (["--image", "disk.raw", "--data-disk", "999999999"], "--data-disk 999999999: not a whole number from 0 to 65536"),
    (["--image", "disk.raw", "--data-disk", "1" * 5000], "--data-disk 1*1: not a whole number from 0 to 65536"),
    (["--image", "disk.raw", "--boots", "0"], "--boots 0: not a whole number from 1 on"),
    (["--image", "disk.raw", "--boots", "-3"], "--boots -3: not a whole number from 1 on"),
    (["--image", "disk.raw", "--boots", "abc"], "--boots abc: not a whole number from 1 on"),
    (["--image", "disk.raw", "--perf-floor", "nan"], "--perf-floor nan: not a number from 0 to 100 (hint: *"),
    (["--image", "disk.raw", "--perf-floor=-inf"], "--perf-floor -inf: not a number from 0 to 100 (hint: *"),
    (["--image", "disk.raw", "--perf-floor", "a bit"], "--perf-floor a bit: not a number from 0 to 100 (hint: *"),
    (["--image", "disk.raw", "--reruns", "-1"], "--reruns -1: not a whole number from 0 on"),
    (["--image", "disk.raw", "--image", "other.raw"], "--image other.raw: it was given before, as disk.raw (hint: *"),
    (["--image", "disk.raw", "--next-image", "a", "--next-image", "b"], "--next-image b: it was given before, as a *"),
    (["--image", "disk.raw", "--power-cuts", "soon"], "--power-cuts soon: not a duration (hint: *"),
    (["--image", "disk.raw", "--instance-type", "ecs.g7.tiny"], "unknown instance type*(hint: *"),
    (["--image", "disk.raw"], "--profile auto: disk.raw: the OS on its disk is not recognised: *(hint: name one *"),
    (["--image", "disk.raw", "--profile", "pattern.toml"],
     "profile pattern.toml: security.listeners.0: 'tcp (' is not a regular expression: *(hint: *"),
    (["--image", "disk.raw", "--profile", "figureless.toml"],
     "profile figureless.toml: makes claims without the data to judge them: few-units needs budget.units (hint: *"),
    (["--image", "disk.raw", "--profile", "reference", "--reports", "quick.toml"],
     "--reports *quick.toml: cannot be used: *(hint: *"),
    (["--image", "disk.raw", "--known-issues", "none.toml"], "--known-issues *none.toml: cannot be read: *(hint: *"),
    (["--image", "disk.raw", "--sign-with", "quick.toml"], "--sign-with quick.toml: not a file of minisign: *(hint: *"),
])  # fmt: skip
def test_bad_input_gets_one_line_before_anything_boots(
    place: pytest.Pytester, options: list[str], complaint: str
) -> None:
    raw_image(place.path / "disk.raw")
    (place.path / "pattern.toml").write_text('extends = "reference"\n[security]\nlisteners = ["tcp ("]\n')
    (place.path / "figureless.toml").write_text('extends = "lifsea-3.3"\nadds = ["few-units"]\n')
    subprocess.run(BACKED, cwd=place.path, check=True)
    whole = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "truncated.qcow2", "64M"]
    subprocess.run(whole, cwd=place.path, check=True)
    os.truncate(place.path / "truncated.qcow2", 200_000)
    result = place.runpytest_subprocess(*options, "-p", "no:cacheprovider")
    assert result.ret == USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    result.stderr.fnmatch_lines([f"ERROR: {complaint}"])
    assert line.startswith("ERROR: ") and [line for line in result.outlines if line] == []
    assert not (place.path / "reports").exists()
    assert_nothing_is_left(place)


def test_a_host_without_qemu_gets_the_command_that_installs_it(
    place: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = judge(place, raw_image(place.path / "disk.raw"))
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *not found on PATH (hint: apt-get install *qemu-system-x86*)"])


UNPROMISED = '''
import pytest
from lifsea_testbed import claim

@pytest.fixture(scope="session")
def ten_boots():
    raise AssertionError("made for a claim that nobody makes")

@claim("no-python")
def test_python(ten_boots):
    pass
'''


def test_nothing_is_set_up_for_a_claim_that_the_profile_does_not_make(place: pytest.Pytester) -> None:
    place.makepyfile(test_suite=UNPROMISED)
    result = judge(place, raw_image(place.path / "disk.raw"), "--accel", "tcg", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * does not promise no-python*"])


@pytest.mark.boots
@pytest.mark.parametrize(("options", "line"), [
    ([], "machines: restored from a snapshot in *"), (["--cold"], "machines: booted, not restored: --cold was given"),
])  # fmt: skip
def test_the_header_says_how_machines_come_about(place: pytest.Pytester, options: list[str], line: str) -> None:
    result = judge(place, raw_image(place.path / "disk.raw", "Kernel panic - not syncing\n"), *options)
    assert result.ret == 1
    result.stdout.fnmatch_lines([line])
    assert not list((place.path / "cache").glob("lifsea-testbed/templates/*/memory"))


@pytest.mark.boots
def test_a_panic_fails_the_gate_and_nobody_waits_again(place: pytest.Pytester) -> None:
    image = raw_image(place.path / "disk.raw", "[    1.0] Kernel panic - not syncing: no root\n")
    before = image.read_bytes()
    result = judge(place, image, "-rs")
    assert result.ret == 1
    first, other = gate(place)["claims"]
    assert (first["id"], first["status"]) == ("boots-to-ready", "failed")
    assert (other["status"], other["reason"]) == ("not judged", "image")
    assert other["why"].startswith("the image did not come up: kernel panic: ")
    result.stdout.fnmatch_lines(["SKIPPED * not judged by image: the image did not come up"])
    assert gate(place)["verdict"] == "fail" and gate(place)["why"].startswith("not kept: boots-to-ready")
    result.stdout.fnmatch_lines(["*GuestCrashed: kernel panic*", "*not syncing: no root*", "reproduce: pytest *"])
    assert result.outlines[-1].startswith("verdict: fail - quick: 1 failed, 1 not judged of 2 claims")
    assert image.read_bytes() == before
    assert_nothing_is_left(place)


@pytest.mark.boots
def test_an_image_in_another_format_has_the_same_results(place: pytest.Pytester) -> None:
    image = raw_image(place.path / "disk.raw", "[    1.0] Kernel panic - not syncing: no root\n")
    found = []
    for path in (image, *(converted(image, form, place.path) for form in (DiskFormat.VHD, DiskFormat.VMDK))):
        judge(place, path)
        found.append({key: value for key, value in gate(place).items() if key != "image"})
    assert found[0]["verdict"] == "fail" and found[1:] == [found[0], found[0]]


@pytest.mark.boots
def test_an_image_that_never_gets_anywhere_fails_within_its_deadline(place: pytest.Pytester) -> None:
    result = judge(place, raw_image(place.path / "disk.raw", "stuck here\n"))
    assert result.ret == 1
    assert result.duration < 60.0
    result.stdout.fnmatch_lines(["*BootFailed: no root shell within*", "*stuck here*"])
    result.stdout.fnmatch_lines(["*powering on*"])
    assert len([line for line in result.outlines if "powering on" in line]) == 1
    assert_nothing_is_left(place)


@pytest.mark.boots
def test_what_a_guest_prints_cannot_drive_the_terminal(place: pytest.Pytester) -> None:
    result = judge(place, raw_image(place.path / "disk.raw", "\x1b]0;owned\x07Kernel panic - not syncing\n"))
    everywhere = result.stdout.str() + (place.path / "reports/gate.json").read_text()
    assert "\x1b]" not in everywhere and "owned" not in everywhere


@pytest.mark.boots
def test_reports_are_written_even_when_the_guest_is_dead(place: pytest.Pytester) -> None:
    judge(place, raw_image(place.path / "disk.raw", "Kernel panic - not syncing\n"))
    reports = place.path / "reports"
    assert 'message="failed: kernel panic' in (reports / "junit.xml").read_text()
    results = [json.loads(path.read_text()) for path in (reports / "allure").glob("*-result.json")]
    assert sorted(result["status"] for result in results) == ["failed", "skipped"]
    (transcript,) = (reports / "machines/template-machine").glob("transcript-1.txt")
    assert "not syncing" in transcript.read_text()
    assert "-blockdev" in (reports / "machines/template-machine/qemu-argv.txt").read_text()


@pytest.mark.boots
def test_workers_join_one_gate(place: pytest.Pytester) -> None:
    result = judge(place, raw_image(place.path / "disk.raw", "Kernel panic - not syncing\n"), "-n", "2")
    assert result.ret == 1
    assert [claim["status"] for claim in gate(place)["claims"]] == ["failed", "not judged"]
    assert_nothing_is_left(place)


@pytest.mark.boots
def test_a_claim_without_a_test_is_not_judged(place: pytest.Pytester) -> None:
    place.makepyfile(test_suite="def test_nothing(): pass")
    result = judge(place, raw_image(place.path / "disk.raw"))
    assert (result.ret, gate(place)["verdict"]) == (7, "not judged")
    assert gate(place)["why"] == "no test judges: boots-to-ready, no-sshd"


@pytest.mark.boots
def test_a_selected_claim_is_judged_alone(place: pytest.Pytester) -> None:
    image = raw_image(place.path / "disk.raw", "Kernel panic - not syncing\n")
    result = judge(place, image, "--claim", "no-sshd")
    assert result.ret == 1
    assert [claim["id"] for claim in gate(place)["claims"]] == gate(place)["selected"] == ["no-sshd"]
    result.assert_outcomes(skipped=1, deselected=1)
    assert gate(place)["verdict"] == "fail" and gate(place)["why"].startswith("the image did not come up: kernel panic")
