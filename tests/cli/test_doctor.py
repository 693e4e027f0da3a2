"""The doctor: every trouble of a host is found, and comes with something to do about it."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.cli import doctor
from lifsea_testbed.cli.doctor import Facts, State
from lifsea_testbed.cli.main import main
from lifsea_testbed.errors import HostError
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.emulator import Emulator

GOOD = Facts(
    emulator=Emulator(binary="/usr/bin/qemu-system-x86_64", version="10.0.2"), lacking=(), sandbox_trouble="",
    accelerator=Accelerator(kind=AcceleratorKind.KVM, speed=3000.0, why="KVM runs 3000.0 M instructions/s, TCG 1000 M"),
    kvm_exists=True, kvm_opens=True, memory=30_000, directory=Path("/tmp"), disk=50 << 30,
    huge_pages="always [madvise] never", compilers=("gcc", "as", "ld"),
)  # fmt: skip
SLOW = Accelerator(kind=AcceleratorKind.TCG, speed=1000.0, why="KVM is not usable here")
NO_QEMU = HostError("qemu-system-x86_64 not found on PATH", hint="apt-get install qemu-system-x86")


def troubles(**facts: Any) -> list[doctor.Finding]:
    return [finding for finding in doctor.examine(dataclasses.replace(GOOD, **facts)) if finding.state != State.GOOD]


def test_a_good_host_has_no_troubles() -> None:
    assert troubles() == []


@pytest.mark.parametrize(("facts", "what", "state", "remedy"), [
    ({"accelerator": SLOW, "kvm_exists": False}, "accelerator", State.LIMITED, "--device /dev/kvm"),
    ({"accelerator": SLOW, "kvm_opens": False}, "accelerator", State.LIMITED, "usermod"),
    ({"accelerator": SLOW}, "accelerator", State.LIMITED, "bare metal"),
    ({"accelerator": HostError("QEMU runs no code")}, "accelerator", State.MISSING, "apt-get install"),
    ({"emulator": Emulator(binary="qemu", version="7.2.22")}, "QEMU", State.LIMITED, "backports"),
    ({"lacking": ("blklogwrites",)}, "features", State.MISSING, "apt-get install"),
    ({"sandbox_trouble": "seccomp is not allowed"}, "sandbox", State.MISSING, "allow"),
    ({"memory": 6000}, "memory", State.LIMITED, "larger host"),
    ({"memory": 1000}, "memory", State.MISSING, "larger host"),
    ({"disk": 1 << 30}, "disk", State.MISSING, "TMPDIR"),
    ({"huge_pages": "always madvise [never]"}, "huge pages", State.LIMITED, "madvise"),
    ({"huge_pages": ""}, "huge pages", State.LIMITED, "madvise"),
    ({"compilers": ("as", "ld")}, "compilers", State.LIMITED, "gcc"),
])  # fmt: skip
def test_a_trouble_is_found_with_its_remedy(facts: dict[str, Any], what: str, state: State, remedy: str) -> None:
    (finding,) = troubles(**facts)
    assert (finding.what, finding.state) == (what, state)
    assert remedy in finding.remedy and f"remedy: {finding.remedy}" in str(finding)


def test_without_qemu_nothing_that_needs_it_is_called_good() -> None:
    found = troubles(emulator=NO_QEMU, accelerator=NO_QEMU)
    assert {finding.what for finding in found} == {"accelerator", "QEMU", "features", "sandbox"}
    assert all(finding.state is State.MISSING and finding.remedy for finding in found)


def test_this_host_can_run_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert [what for what in ("accelerator", "QEMU", "sandbox", "memory", "huge pages") if what not in shown] == []


def test_a_host_that_can_run_nothing_is_told_so(monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["doctor"]) == 6
    shown = capsys.readouterr()
    assert "apt-get install qemu-system-x86" in shown.out
    assert shown.err.startswith("ERROR: this host can run no image: accelerator, QEMU, features, sandbox (hint: ")


REFUSES = "case \"$*\" in *blklogwrites*) echo \"Parameter 'driver' does not accept value\" >&2; exit 1;; esac"
LISTS_NONE = "case \"$*\" in *'-device help'*) exit 0;; esac"


@pytest.mark.parametrize(("script", "what"), [(REFUSES, "blklogwrites"), (LISTS_NONE, "pvpanic"), ("", "")])
def test_a_qemu_that_lacks_something_is_found_out(tmp_path: Path, script: str, what: str) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\n{script}\nexec qemu-system-x86_64 "$@"\n')
    qemu.chmod(0o755)
    lacking = list(doctor._lacking(Emulator(binary=str(qemu), version="10.0")))
    assert what in lacking if what else lacking == []


def test_a_qemu_that_dies_of_its_sandbox_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "failed to install seccomp syscall filter in the kernel"
    monkeypatch.setattr(doctor, "_answer", lambda command, words_in: subprocess.CompletedProcess(command, 1, "", words))
    assert doctor._sandboxed(Emulator(binary="qemu-system-x86_64", version="10.0")) == words
