"""The suites on an ordinary Debian server: it boots, and breaks the promises that a traditional system breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lifsea_testbed.profiles import profile as profiles
from tests.support import ROOT
from tests.support.real import built

PROFILE = "lifsea-3.3"
#: The claims that an ordinary server breaks.
BROKEN = {
    "boots-to-ready", "packages-about-200", "root-read-only", "paths-as-promised", "no-sshd", "no-python",
    "no-interpreters", "no-package-manager", "no-initramfs", "drivers-built-in", "no-logind", "no-resolved", "ntp-set",
    "ops-container-off", "ops-container-on-demand", "image-whole", "sysctls", "console-clean",
    "selinux-enforcing", "no-debug-tools",
    "user-data-ran-once",  # cloud-init fetches it at every boot, and runs it at the first
}  # fmt: skip
#: The claims that it keeps.
KEPT = {"shell-kept", "disk-grown", "hostname-set", "no-default-password", "containerd-ready",
        "kubelet-ready", "nodes-identical"}  # fmt: skip
#: The claims that are judged on machines of their own, each booted again.
ON_OWN_MACHINES = {"user-data-ran-once", "ops-container-on-demand", "nodes-identical"}
#: The claims that this host, or this command line, cannot judge.
NOT_JUDGED = {
    "boot-two-seconds", "upgrade", "rollback", "etc-var-writable-and-kept", "upgrade-chain", "etc-merged",
    "upgrade-refused-whole", "atomic-upgrade",
}  # fmt: skip
#: The claims that take further first boots, of minutes each on this image; they are left out.
LEFT_OUT = {"time-synchronised", "metadata-late"}


def test_every_promise_is_on_one_list() -> None:
    assert set(profiles.load(PROFILE).claims) == BROKEN | KEPT | NOT_JUDGED | LEFT_OUT
    assert len(BROKEN | KEPT | NOT_JUDGED | LEFT_OUT) == sum(map(len, (BROKEN, KEPT, NOT_JUDGED, LEFT_OUT)))


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("claims", [(BROKEN | KEPT) - ON_OWN_MACHINES, ON_OWN_MACHINES], ids=["shared", "own"])
def test_an_ordinary_server_breaks_the_promises_that_it_cannot_keep(claims: set[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "suites", "-p", "no:cacheprovider", "--image", str(built("control")),
               "--profile", PROFILE, "--reports", str(tmp_path), "--boots", "1",
               *(f"--claim={claim}" for claim in sorted(claims))]  # fmt: skip
    judged = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(judged.stdout)
    statuses = {claim["id"]: claim["status"] for claim in json.loads((tmp_path / "gate.json").read_text())["claims"]}
    assert judged.returncode == 1
    assert {claim for claim, status in statuses.items() if status != "passed"} == claims & BROKEN
    assert {claim for claim in claims & BROKEN if statuses[claim] != "failed"} == set()
