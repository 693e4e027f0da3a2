"""The doctor: every shortcoming of a host is found and named with a remedy."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.cli import doctor
from lifsea_testbed.cli.doctor import CheckState, HostFacts
from lifsea_testbed.cli.main import main
from lifsea_testbed.errors import HostError
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.support.confinement import Isolation
from lifsea_testbed.support.firmware import Firmware

GOOD = HostFacts(
    emulator=Emulator(binary="/usr/bin/qemu-system-x86_64", version="10.0.2"), missing_features=(), sandbox_trouble="",
    isolation=Isolation(namespaces=("network", "files", "IPC", "processes")), reader_reaches=(),
    accelerator=Accelerator(kind=AcceleratorKind.KVM, speed=9000.0, why="KVM runs 9000.0 M instructions/s, TCG 1000 M"),
    kvm_exists=True, kvm_opens=True, memory=30_000, directory=Path("/tmp"), disk=50 << 30,
    huge_pages="always [madvise] never", compilers=("gcc", "as", "ld"),
    uefi=(Firmware.UEFI, Firmware.UEFI_SECURE),
)  # fmt: skip
SLOW = Accelerator(kind=AcceleratorKind.TCG, speed=1000.0, why="KVM is not usable here")
CRAWLING = Accelerator(kind=AcceleratorKind.KVM, speed=4000.0, why="KVM runs 4000.0 M instructions/s, TCG 1000 M")
NO_QEMU = HostError("qemu-system-x86_64 not found on PATH", hint="apt-get install qemu-system-x86")


def troubles(**facts: Any) -> list[doctor.Check]:
    return [check for check in doctor.checks_of(dataclasses.replace(GOOD, **facts)) if check.state != CheckState.GOOD]


def test_a_good_host_has_no_troubles() -> None:
    assert troubles() == []


@pytest.mark.parametrize(("facts", "name", "state", "remedy"), [
    ({"accelerator": SLOW, "kvm_exists": False}, "accelerator", CheckState.LIMITED, "--device /dev/kvm"),
    ({"accelerator": SLOW, "kvm_opens": False}, "accelerator", CheckState.LIMITED, "usermod"),
    ({"accelerator": SLOW}, "accelerator", CheckState.LIMITED, "bare metal"),
    ({"accelerator": CRAWLING}, "accelerator", CheckState.LIMITED, "the clock of an ecs.g7"),
    ({"accelerator": HostError("QEMU runs no code")}, "accelerator", CheckState.MISSING, "apt-get install"),
    ({"emulator": Emulator(binary="qemu", version="7.2.22")}, "QEMU", CheckState.LIMITED, "backports"),
    ({"missing_features": ("blklogwrites",)}, "features", CheckState.MISSING, "apt-get install"),
    ({"sandbox_trouble": "seccomp is not allowed"}, "sandbox", CheckState.MISSING, "allow"),
    ({"isolation": Isolation(missing=("network",), why="Operation not permitted", hint="allow namespaces")},
     "confinement", CheckState.LIMITED, "allow namespaces"),
    ({"isolation": Isolation(own_users=False)}, "confinement", CheckState.LIMITED, "run as root"),
    ({"reader_reaches": ("the network of this host",)}, "reader", CheckState.LIMITED, "Landlock"),
    ({"memory": 6000}, "memory", CheckState.LIMITED, "larger host"),
    ({"memory": 1000}, "memory", CheckState.MISSING, "larger host"),
    ({"disk": 1 << 30}, "disk", CheckState.MISSING, "TMPDIR"),
    ({"huge_pages": "always madvise [never]"}, "huge pages", CheckState.LIMITED, "madvise"),
    ({"huge_pages": ""}, "huge pages", CheckState.LIMITED, "madvise"),
    ({"uefi": ()}, "UEFI", CheckState.LIMITED, "ovmf"),
    ({"uefi": (Firmware.UEFI,)}, "UEFI", CheckState.LIMITED, "ovmf"),
    ({"compilers": ("as", "ld")}, "compilers", CheckState.LIMITED, "gcc"),
])  # fmt: skip
def test_a_trouble_is_found_with_its_remedy(facts: dict[str, Any], name: str, state: CheckState, remedy: str) -> None:
    (check,) = troubles(**facts)
    assert (check.name, check.state) == (name, state)
    assert remedy in check.remedy and f"remedy: {check.remedy}" in str(check)


def test_without_qemu_nothing_that_needs_it_is_ok() -> None:
    found = troubles(emulator=NO_QEMU, accelerator=NO_QEMU)
    assert {check.name for check in found} == {"accelerator", "QEMU", "features", "sandbox"}
    assert all(check.state is CheckState.MISSING and check.remedy for check in found)


def test_this_host_can_run_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    expected = ("accelerator", "QEMU", "sandbox", "reader", "memory", "huge pages")
    assert [what for what in expected if what not in shown] == []


def test_a_host_that_can_run_nothing_gets_exit_status_6(monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["doctor"]) == 6
    shown = capsys.readouterr()
    assert "apt-get install qemu-system-x86" in shown.out
    assert shown.err.startswith("ERROR: this host can run no image: accelerator, QEMU, features, sandbox (hint: ")


REFUSES = "case \"$*\" in *blklogwrites*) echo \"Parameter 'driver' does not accept value\" >&2; exit 1;; esac"
LISTS_NONE = "case \"$*\" in *'-device help'*) exit 0;; esac"


@pytest.mark.parametrize(("script", "what"), [(REFUSES, "blklogwrites"), (LISTS_NONE, "pvpanic"), ("", "")])
def test_a_qemu_that_lacks_a_feature_is_found(tmp_path: Path, script: str, what: str) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\n{script}\nexec qemu-system-x86_64 "$@"\n')
    qemu.chmod(0o755)
    missing_features = list(doctor._missing_features(Emulator(binary=str(qemu), version="10.0")))
    assert what in missing_features if what else missing_features == []


def test_a_qemu_that_its_sandbox_stops_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "failed to install seccomp syscall filter in the kernel"
    ended = subprocess.CompletedProcess([], 1, "", message)
    monkeypatch.setattr(doctor, "_run_qemu", lambda command, stdin: ended)
    assert doctor._sandbox_trouble(Emulator(binary="qemu-system-x86_64", version="10.0")) == message
