"""Each mutant is killed by the claim meant, and by no unrelated one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from images import mutations
from lifsea_testbed import profile as profiles
from lifsea_testbed.claims import catalogue
from tests.mutants import table
from tests.real import ROOT, built

#: Those that every suite is run on: one for each room of the system.
SAMPLE = ("python-in-libexec", "dropbear-renamed", "one-file-replaced", "setuid-file", "sysctl-overridden",
          "operations-at-boot", "user-data-asked-again", "initrd-in-one-entry")  # fmt: skip
#: The claims that are judged by going to the next image and back.
TRAVELLING = {"upgrade", "rollback", "etc-var-writable-and-kept"}
#: What no mutant breaks, and why the suites are seen to fail on it all the same.
UNBROKEN = {
    "shell-kept": "without a shell nothing at all is judged as it should be: tests/test_roads.py",
    "drivers-built-in": "the control image has its drivers as modules: tests/test_control.py",
    "instance-as-sold": "the hardware is the test bed's: tests/test_suites.py",
    "instance-memory": "the hardware is the test bed's: tests/test_suites.py",
    "instance-features": "the hardware is the test bed's: tests/test_suites.py",
    "instance-queues": "the hardware is the test bed's: tests/test_suites.py",
}  # fmt: skip
MUTANTS = {name: mutations.read(name) for name in mutations.names()}


def judged(name: str, into: Path, *options: str) -> dict[str, str]:
    """The status of each claim that was judged on that mutant."""
    image = into / f"{name}.qcow2"
    build = [sys.executable, "-m", "images", "build", f"{mutations.PREFIX}{name}", "-o", str(image)]
    subprocess.run(build, cwd=ROOT, check=True)
    judge = [sys.executable, "-m", "pytest", "suites", "-p", "no:cacheprovider", "--image", str(image), "--profile",
             "reference", "--reports", str(into / "reports"), *options]  # fmt: skip
    done = subprocess.run(judge, cwd=ROOT, capture_output=True, text=True, check=False)
    image.unlink()
    print(done.stdout)
    gate = json.loads((into / "reports/gate.json").read_text("utf-8"))
    assert gate["verdict"] != "broken", gate["why"]
    return {claim["id"]: claim["status"] for claim in gate["claims"]}


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_by_the_claim_meant(name: str, tmp_path: Path) -> None:
    claim = MUTANTS[name].claim
    statuses = judged(name, tmp_path, "--claim", claim, *travelling(claim))
    table.keep(name, "claim", statuses)
    if statuses[claim] == "not judged":
        pytest.skip(f"this host cannot judge {claim}")
    assert statuses == {claim: "failed"}


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_is_killed_by_no_other_claim(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    statuses = judged(name, tmp_path)
    table.keep(name, "suite", statuses)
    failed = {claim for claim, status in statuses.items() if status in ("failed", "broken")}
    assert mutant.claim in failed
    assert failed - {mutant.claim, *mutant.also} == set()


def travelling(claim: str) -> list[str]:
    return ["--next-image", str(built("next"))] if claim in TRAVELLING else []


def test_every_claim_has_a_mutant_or_a_reason() -> None:
    assert {mutant.claim for mutant in MUTANTS.values()} == set(profiles.load("reference").claims) - set(UNBROKEN)
    assert set(UNBROKEN) <= set(catalogue())


def test_there_are_enough_mutants_and_each_can_be_told() -> None:
    assert len(MUTANTS) >= 40 and set(SAMPLE) <= set(MUTANTS)
    assert [name for name, mutant in MUTANTS.items() if not (mutant.tree or mutant.sysroot)] == []
    assert [name for name, mutant in MUTANTS.items() if not set(mutant.also) <= set(catalogue())] == []
    assert [name for name, mutant in MUTANTS.items() if not (mutant.change + mutant.why).endswith(".")] == []


def test_the_document_is_in_step_with_the_mutants() -> None:
    assert (ROOT / "docs/mutants.md").read_text("utf-8") == mutations.document()
