"""Each mutant is killed by its claim, and by no unrelated one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import mutations
from lifsea_testbed.profiles.claims import catalogue
from tests.mutants import table
from tests.profiles.test_claims import judges
from tests.suites.test_suites import DEFECTS
from tests.support import ROOT
from tests.support.real import built, control_plane

#: The mutants that every suite runs on: one for each area of the system.
SAMPLE = ("python-in-libexec", "dropbear-renamed", "one-file-replaced", "sysctl-overridden", "operations-at-boot",
          "user-data-asked-again", "initrd-in-one-entry", "unit-fails")  # fmt: skip
#: The claims that are judged by an upgrade to the next image.
UPGRADING = {"upgrade", "rollback", "etc-var-writable-and-kept", "atomic-upgrade"}
#: Claims that are waited for: a mutant that never keeps them gets shorter time limits.
WAITED_FOR = {"containerd-ready", "kubelet-ready", "static-pod-runs", "node-ready", "pod-runs", "metadata-late",
              "metadata-hardened", "time-synchronised", "survives-power-cut"}
IMPATIENT = """
extends = "{extends}"
name = "{extends}-impatient"
boot.shell_within = 12
boot.ready_within = 8
clock.corrected_within = 6
cluster.ready_within = 20
"""
#: The claims that no mutant breaks, and why; their judges fail on a fake guest (tests/suites/test_suites.py).
UNBROKEN = {
    "selinux-enforcing": "the kernel of the reference image has no SELinux; it does not make the claim",
}  # fmt: skip
MUTANTS = {name: mutations.read(name) for name in mutations.names()}


def judged(name: str, into: Path, by: str, *options: str) -> dict[str, str]:
    """The status of each claim that was judged on that mutant, stored for the table."""
    image = into / f"{name}.qcow2"
    build = [sys.executable, "-m", "images", "build", f"{mutations.PREFIX}{name}", "-o", str(image)]
    subprocess.run(build, cwd=ROOT, check=True)
    judge = [sys.executable, "-m", "pytest", "suites", "-p", "no:cacheprovider", "--image", str(image), "--profile",
             profile_for(MUTANTS[name], into), "--reports", str(into / "reports"),
             "--control-plane", str(control_plane()), *options]  # fmt: skip
    done = subprocess.run(judge, cwd=ROOT, capture_output=True, text=True, check=False)
    image.unlink()
    print(done.stdout)
    gate = json.loads((into / "reports/gate.json").read_text("utf-8"))
    assert gate["verdict"] != "broken", gate["why"]
    statuses = {claim["id"]: claim["status"] for claim in gate["claims"]}
    table.keep(table.Run(mutant=name, judged_by=by, statuses=statuses))
    return statuses


def profile_for(mutant: mutations.Mutant, into: Path) -> str:
    """The profile that judges the mutant, with shorter time limits if its claim can only time out."""
    if mutant.claim not in WAITED_FOR:
        return mutant.profile
    profile = into / "impatient.toml"
    profile.write_text(IMPATIENT.format(extends=mutant.profile))
    return str(profile)


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_by_its_claim(name: str, tmp_path: Path) -> None:
    claim = MUTANTS[name].claim
    statuses = judged(name, tmp_path, "claim", "--cold", "--boots", "4", "--claim", claim, *upgrade_options(claim))
    if statuses[claim] == "not judged":
        pytest.skip(f"this host cannot judge {claim}")
    assert statuses == {claim: "failed"}


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_is_killed_by_no_other_claim(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    statuses = judged(name, tmp_path, "suite", "--boots", "1", "--reruns", "1")
    failed = {claim for claim, status in statuses.items() if status in ("failed", "broken")}
    assert mutant.claim in failed
    assert failed - {mutant.claim, *mutant.also} == set()


def upgrade_options(claim: str) -> list[str]:
    cuts = ["--power-cuts", "12m"] if claim == "atomic-upgrade" else []
    return [*cuts, "--next-image", str(built("next"))] if claim in UPGRADING else []


def test_every_claim_is_broken_by_a_mutant_or_by_a_fake_guest() -> None:
    assert {mutant.claim for mutant in MUTANTS.values()} == set(catalogue()) - set(UNBROKEN)
    assert {node.name for claim, node in judges() if claim in UNBROKEN} <= {name for name in DEFECTS if DEFECTS[name]}


def test_there_are_enough_mutants_and_each_is_complete() -> None:
    assert len(MUTANTS) >= 40 and set(SAMPLE) <= set(MUTANTS)
    assert [name for name, mutant in MUTANTS.items() if not (mutant.tree or mutant.sysroot)] == []
    assert [name for name, mutant in MUTANTS.items() if not set(mutant.also) <= set(catalogue())] == []
    assert [name for name, mutant in MUTANTS.items() if mutant.also and name not in SAMPLE] == []
    assert [name for name, mutant in MUTANTS.items() if not (mutant.change + mutant.why).endswith(".")] == []


def edits() -> Iterator[tuple[str, str, Path]]:
    """The mutants that edit a file of the reference image, or of its line, by sed, with the expression and the file."""
    reference = ROOT / "images/reference"
    for name, mutant in MUTANTS.items():
        script = (mutant.tree + mutant.sysroot).replace("$UNITS", "usr/lib/systemd/system")
        if named := re.search(r"file=\$\(deployment\)/(\S+)", script):
            script = script.replace("$file", named[1])
        for expression, path in re.findall(r"\bsed (?:-i )?'([^']*)' (\S+)", script):
            places = (reference / mutant.line / Path(path).name, reference / "files" / path)
            yield from ((name, expression, place) for place in [*filter(Path.is_file, places)][:1])


@pytest.mark.parametrize(("name", "expression", "path"), list(edits()))
def test_a_mutant_changes_the_file_that_it_edits(name: str, expression: str, path: Path) -> None:
    """An expression that matches nothing would make an image that breaks no promise."""
    edited = subprocess.run(["sed", expression, path], capture_output=True, check=True).stdout
    assert edited != path.read_bytes()


def test_the_document_is_in_step_with_the_mutants() -> None:
    assert (ROOT / "docs/mutants.md").read_text("utf-8") == mutations.document()


def test_no_mutant_is_on_record_as_a_survivor() -> None:
    lines = (ROOT / "docs/mutants-judged.md").read_text("utf-8").splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines
            if " | claim | " in line or " | suite | " in line}  # fmt: skip
    assert rows and set(rows) <= set(MUTANTS)
    assert [name for name, row in rows.items() if "killed" not in row or "false alarm" in row] == []
