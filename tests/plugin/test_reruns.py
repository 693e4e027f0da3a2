"""Reruns of tests, and the progress shown to the user."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.support import quick
from tests.support.boot_sector import raw_image

SUITE = """
from lifsea_testbed import claim

@claim("boots-to-ready")
def test_boots(machine):
    machine.wait_until_ready()
"""
#: QEMU is never started: powering on raises one of these after the other.
CONFTEST = """
from lifsea_testbed.errors import BootFailed, LaunchError
from lifsea_testbed import Machine

errors = iter([LaunchError("QEMU had a hiccup"), BootFailed("no shell"), BootFailed("no shell again")])

def power_on(machine):
    raise next(errors)

Machine.power_on = power_on
"""


def judge(place: pytest.Pytester, *options: str) -> pytest.RunResult:
    place.makepyfile(test_suite=SUITE)
    place.makeconftest(CONFTEST)
    profile = 'extends = "reference"\nname = "quick"\nclaims = ["boots-to-ready"]\n'
    (place.path / "quick.toml").write_text(profile)
    return place.runpytest_subprocess("--image", str(raw_image(place.path / "disk.raw")), "--profile", "quick.toml",
                                      "--accel", "tcg", "-p", "no:cacheprovider", *options)  # fmt: skip


def attempts(place: pytest.Pytester) -> list[str]:
    (claim,) = json.loads((place.path / "reports/gate.json").read_text())["claims"]
    return [f"{attempt['status']} {attempt['blame']}" for attempt in claim["tests"][0]["attempts"]]


@pytest.mark.parametrize(("options", "expected"), [
    (["--reruns", "2"], ["broken host", "failed product"]),
    (["--reruns", "2", "--rerun-product"], ["broken host", "failed product", "failed product"]),
])  # fmt: skip
def test_a_machine_that_did_not_start_is_made_again(
    pytester: pytest.Pytester, options: list[str], expected: list[str]
) -> None:
    judge(pytester, *options)
    assert attempts(pytester) == expected


def test_reruns_may_stand_in_the_configuration_and_stay_bounded_by_blame(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nreruns = 2\n")
    result = judge(pytester, "-q")
    assert attempts(pytester) == ["broken host", "failed product"]
    assert not [line for line in result.outlines if "powering on" in line]


#: What a test of a claim ends with, and whether it is run again.
ENDS = """
import pytest
from lifsea_testbed import claim
from lifsea_testbed.errors import AnswerUnreadable, ChannelError, CommandFailed, MachineStarved

ERRORS = {"unreadable": AnswerUnreadable("x"), "failed": CommandFailed("x"), "assertion": AssertionError("x"),
          "starved": MachineStarved("x"), "channel": ChannelError("x"), "bug": ValueError("x")}

@claim("no-sshd")
@pytest.mark.parametrize("name", [*ERRORS, "words"])
def test_ends(name):
    if name == "words":
        pytest.fail("x")
    raise ERRORS[name]
"""


def test_a_fault_of_the_guest_is_never_run_again_as_the_harness_s(pytester: pytest.Pytester) -> None:
    pytester.runpytest_subprocess(*quick.lay_out(pytester.path, ENDS), "--reruns", "1")
    claims = json.loads((pytester.path / "reports/gate.json").read_text())["claims"]
    tests = {test["id"].partition("[")[2].rstrip("]"): [f"{attempt['status']} {attempt['blame']}" for attempt
                                                         in test["attempts"]]
             for claim in claims for test in claim["tests"]}  # fmt: skip
    assert tests == {
        "unreadable": ["failed product"], "failed": ["failed product"], "assertion": ["failed product"],
        "words": ["failed product"], "starved": ["broken host"] * 2, "channel": ["failed product"],
        "bug": ["broken harness"] * 2,
    }  # fmt: skip


SPINNER = """
import time
from lifsea_testbed.report.terminal import Spinner
spinner = Spinner(lambda line: print("line:", line, flush=True))
spinner.show("powering on")
time.sleep(0.5)
spinner.close()
print("after")
"""


def test_progress_is_a_line_on_a_terminal_that_goes_away() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SPINNER], stdout=theirs, check=True, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "powering on" in shown and "line:" not in shown and "0:00:00" in shown
    assert "\x1b[2K" in shown.rpartition("powering on")[2]


def test_progress_is_plain_lines_in_a_pipe() -> None:
    piped = subprocess.run([sys.executable, "-c", SPINNER], capture_output=True, text=True, check=True)
    assert piped.stdout == "line: powering on\nafter\n"
