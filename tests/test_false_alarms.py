"""The suites do not cry wolf: what leaves no trace on a machine is judged over and over, and never fails."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.real import ROOT, built
from tests.test_suites import SUITES, TESTS

#: Machines that are booted cold, and how often all of these tests are run on each.
MACHINES, ROUNDS = 5, 10
#: What a test is given that does no more than look at the machine that is shared.
LOOKS_AT = {"machine", "booted", "watched", "profile", "measure", "bench"}
READ_ONLY = sorted(
    f"{SUITES.name}/{Path(inspect.getfile(test)).name}::{name}" for name, test in TESTS.items()
    if LOOKS_AT.issuperset(inspect.signature(test).parameters)
)  # fmt: skip


def test_most_of_the_suites_leave_no_trace() -> None:
    assert len(READ_ONLY) > 0.6 * len(TESTS)


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("number", range(MACHINES))
def test_a_sound_image_never_fails(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--keep-duplicates", "--image",
               str(built("reference")), "--reports", str(tmp_path), *READ_ONLY * ROUNDS]  # fmt: skip
    judged = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(judged.stdout)
    claims = json.loads((tmp_path / "gate.json").read_text("utf-8"))["claims"]
    assert [claim for claim in claims if claim["status"] in ("failed", "broken")] == []
    cases = ElementTree.parse(tmp_path / "junit.xml").getroot().iter("testcase")
    assert len(list(cases)) == ROUNDS * len(READ_ONLY)
