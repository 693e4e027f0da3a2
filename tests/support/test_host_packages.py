"""Hints name package and program, as the host's package manager knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifsea_testbed.support import host_packages
from lifsea_testbed.support.host_packages import install_hint, reinstall_hint

DEBIAN = "apt-get install qemu-system-x86 qemu-utils (for qemu-system-x86_64, qemu-img)"
RPM = "dnf install qemu-kvm qemu-img (for qemu-system-x86_64, qemu-img), then link /usr/libexec/qemu-kvm as " \
      "qemu-system-x86_64 on PATH"  # fmt: skip


@pytest.mark.parametrize(("manager", "hint"), [("_APT", DEBIAN), ("_DNF", RPM), ("", f"{DEBIAN}; or {RPM}")])
def test_the_hint_is_for_the_package_manager_of_the_host(
    manager: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_APT", "_DNF"):
        monkeypatch.setattr(host_packages, name, tmp_path if name == manager else tmp_path / "none")
    assert install_hint("qemu-system-x86_64", "qemu-img") == hint


def test_a_package_is_named_once() -> None:
    assert "apt-get install --reinstall gcc libc6-dev binutils (for gcc, as, ld)" in reinstall_hint("gcc", "as", "ld")
