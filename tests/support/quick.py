"""Runs of pytest on a guest that is up within a second: a boot sector that says so, judged without a shell."""

from __future__ import annotations

from pathlib import Path

from tests.support.boot_sector import raw_image

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
