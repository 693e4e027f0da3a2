"""The suites do not cry wolf: what leaves no trace on a machine is judged over and over, and never fails."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.suites.test_suites import TESTS
from tests.support import ROOT, SUITES
from tests.support.real import built

#: Machines that are booted cold, and how often all of these tests are run on each.
MACHINES, ROUNDS = 5, 10
#: What a test is given that does no more than look; a `machine` that is its own, and not shared, it changes.
LOOKS_AT = {"machine", "booted", "watched", "profile", "measure", "bench", "cross_check"}
#: A plugin that has all that was collected run again and again, in order.
AGAIN = f"""
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items *= {ROUNDS}
"""


def leaves_no_trace(test: Callable[..., None]) -> bool:
    given = set(inspect.signature(test).parameters)
    of_all = getattr(inspect.getmodule(test), "pytestmark", [])
    marks = [*getattr(test, "pytestmark", []), *(of_all if isinstance(of_all, list) else [of_all])]
    shares = any(mark.name == "shares_machine" for mark in marks)
    return given <= LOOKS_AT and (shares or "machine" not in given)


READ_ONLY = sorted(f"{SUITES.name}/{Path(inspect.getfile(test)).name}::{name}" for name, test in TESTS.items()
                   if leaves_no_trace(test))  # fmt: skip

#: Those that look at two moments.
TWICE = [test for test in READ_ONLY if "watched" in inspect.signature(TESTS[test.partition("::")[2]]).parameters]


def test_most_of_the_suites_leave_no_trace() -> None:
    assert len(READ_ONLY) > 0.5 * len(TESTS)


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("number", range(MACHINES))
def test_a_sound_image_never_fails(number: int, tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(AGAIN)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "again", "--image",
               str(built("reference")), "--reports", str(tmp_path / "reports"), *READ_ONLY]  # fmt: skip
    judged = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                            env={**os.environ, "PYTHONPATH": str(tmp_path)})
    print(judged.stdout)
    gate = json.loads((tmp_path / "reports/gate.json").read_text("utf-8"))
    judged_on = [*gate["claims"], *gate["hardware"]]
    assert [each["id"] for each in judged_on if each["status"] in ("failed", "broken")] == []
    outcomes = pytest.RunResult.parse_summary_nouns(judged.stdout.splitlines())
    assert outcomes.keys() <= {"passed", "skipped"}
    assert sum(outcomes.values()) == ROUNDS * (len(READ_ONLY) + len(TWICE))
