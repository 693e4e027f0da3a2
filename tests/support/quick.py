"""Runs of pytest on a guest that is up within a second: a boot sector that says so, judged without a shell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.boot_sector import raw_image

#: For tests of what only KVM does: guests of some instructions run even where KVM is emulated in software.
needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm cannot be opened")
PROFILE = """
extends = "reference"
name = "quick"
claims = ["boots-to-ready", "no-sshd", "no-python", "shell-kept"]
[access]
methods = ["none"]
[boot]
ready_line = "up and running"
shell_within = 6
"""


def lay_out(place: Path, suite: str, **files: str) -> list[str]:
    """Writes image, profile and suite, and returns the options of a run on them; it writes to that directory alone."""
    raw_image(place / "disk.raw", "up and running\n")
    (place / "quick.toml").write_text(PROFILE)
    (place / "test_suite.py").write_text(suite)
    for name, text in files.items():
        (place / f"{name}.py").write_text(text)
    (place / "tmp").mkdir(exist_ok=True)
    return ["--image", "disk.raw", "--profile", "quick.toml", "--accel", "tcg", "-p", "no:cacheprovider"]
