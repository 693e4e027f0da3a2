"""The suites on an ordinary Debian server: it boots, and breaks the promises that a traditional system breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: What an ordinary server cannot be held to, and what it keeps all the same.
BROKEN = {
    "packages-about-200", "root-read-only", "paths-as-promised", "no-sshd", "no-python", "no-interpreters",
    "no-package-manager", "no-initramfs", "drivers-built-in", "no-logind", "no-resolved", "ops-container-on-demand",
    "operations-audited", "image-whole", "sysctls",
}  # fmt: skip
KEPT = {"shell-kept", "disk-grown", "hostname-set", "user-data-ran-once", "no-default-password", "containerd-ready",
        "kubelet-ready", "instance-as-sold"}  # fmt: skip


@pytest.fixture(scope="module")
def control() -> Path:
    image = ROOT / "build/control.qcow2"
    subprocess.run([sys.executable, "-m", "images", "build", "control", "-o", str(image)], cwd=ROOT, check=True)
    return image


@pytest.mark.nightly
@pytest.mark.boots
def test_an_ordinary_server_breaks_the_promises_that_it_cannot_keep(control: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "suites", "--image", str(control), "--profile", "lifsea-3.3",
               "--reports", str(tmp_path), "--boots", "1"]  # fmt: skip
    judged = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    claims = {claim["id"]: claim["status"] for claim in json.loads((tmp_path / "gate.json").read_text())["claims"]}
    assert judged.returncode == 1, judged.stdout[-3000:]
    assert {claim for claim in BROKEN if claims[claim] != "failed"} == set()
    assert {claim for claim in KEPT if claims[claim] != "passed"} == set()
