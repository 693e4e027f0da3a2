"""The release lines of the reference image keep what 3.4 to 3.6 promise; without a data disk none comes up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lifsea_testbed.errors import GuestCrashed
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.preflight import run_context
from tests.support import ROOT
from tests.support.real import built

#: Claims that cannot be judged under emulation, or without an image to upgrade to.
NOT_JUDGED = {"boot-two-seconds", "etc-var-writable-and-kept"}
#: Claims that are judged from the disk and the console of a machine without a shell.
JUDGED_WITHOUT_SHELL = {"packages-about-200", "image-small", "no-python", "no-interpreters", "shell-absent",
                        "few-units", "setuid-known"}  # fmt: skip


def judged(line: str, reports: Path) -> dict[str, set[str]]:
    """The claims that the image of that line is held to, by their status."""
    command = [sys.executable, "-m", "pytest", "suites", "-p", "no:cacheprovider", "--image",
               str(built(f"reference-{line}")), "--reports", str(reports), "--boots", "1"]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(ran.stdout)
    gate = json.loads((reports / "gate.json").read_text("utf-8"))
    assert (ran.returncode, gate["profile"]) == (0, f"reference-{line}")
    statuses = {claim["status"] for claim in gate["claims"]}
    return {status: {claim["id"] for claim in gate["claims"] if claim["status"] == status} for status in statuses}


@pytest.mark.nightly
@pytest.mark.boots
def test_the_line_with_a_data_disk_keeps_its_promises(tmp_path: Path) -> None:
    claims = judged("3.4", tmp_path)
    assert claims.keys() == {"passed", "not judged"}
    assert claims["not judged"] <= NOT_JUDGED


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("line", ["3.5", "3.6"])
def test_the_lines_without_a_shell_keep_their_promises_as_far_as_they_can_be_told(line: str, tmp_path: Path) -> None:
    claims = judged(line, tmp_path)
    assert claims.keys() == {"passed", "not judged"}
    assert claims["passed"] >= JUDGED_WITHOUT_SHELL


@pytest.mark.nightly
@pytest.mark.boots
def test_without_its_data_disk_it_does_not_come_up(tmp_path: Path) -> None:
    context = run_context(image=str(built("reference-3.4")), profile="auto", instance_type="ecs.g7.large",
                          accelerator="auto", reports=tmp_path, data_disk=0)  # fmt: skip
    bench = MachineFactory(context)
    try:
        with pytest.raises(GuestCrashed) as caught, bench.create(MachineSpec(name="without-data-disk")):
            pass
        assert "lifsea-preinit: one data disk is needed, and there are 0" in caught.value.evidence
    finally:
        bench.close()
