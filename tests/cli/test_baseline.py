"""`lifsea-testbed baseline`, from the command to the verdict on the next image; the disk boots within a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lifsea_testbed.cli.main import main
from tests.support import ROOT, disks
from tests.support.boot_sector import make_bootable
from tests.support.quick import PROFILE

FILES = {"etc/os-release": "ID=x\nVERSION_ID=1.2\n", "usr/lib/systemd/system/a.service": "", "usr/bin/su!": "",
         "usr/lib/udev/rules.d/1.rules": "A\nB\n"}  # fmt: skip
CLAIMS = ("few-units", "few-udev-rules", "setuid-known")


def image(directory: Path, **more: str) -> Path:
    """A disk with those files on its root file system, whose boot sector says that the system is up."""
    directory.mkdir()
    root = disks.fill(directory / "root", {**FILES, **{name.replace("__", "/"): text for name, text in more.items()}})
    return make_bootable(disks.disk(directory / "disk.raw", root=root, label="dos"), "up and running\n")


def statuses(path: Path, profile: Path, reports: Path) -> tuple[int, dict[str, str]]:
    """The exit status of the suites on that image, and the status of each claim."""
    command = [sys.executable, "-m", "pytest", "suites", "-q", "-n0", "-p", "no:cacheprovider", "--image", str(path),
               "--profile", str(profile), "--accel", "tcg", "--reports", str(reports),
               *(f"--claim={claim}" for claim in CLAIMS)]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    judged = json.loads((reports / "gate.json").read_text())["claims"]
    return ended.returncode, {claim["id"]: claim["status"] for claim in judged}


def test_later_images_are_held_to_what_a_released_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    base, own = tmp_path / "quick.toml", tmp_path / "own.toml"
    base.write_text(PROFILE)
    released = image(tmp_path / "released")
    assert main(["baseline", "--image", str(released), "--profile", str(base), "--accel", "tcg",
                 "--reports", str(tmp_path / "reports"), "-o", str(own)]) == 0  # fmt: skip
    text, shown = own.read_text(), capsys.readouterr().out
    assert 'extends = "quick.toml"' in text and "VERSION_ID 1.2" in text and "units = 1\n" in text
    assert "not taken: security.listeners: it cannot be read: " in shown and "own.toml: image.most, " in shown
    assert statuses(released, own, tmp_path / "kept") == (7, dict.fromkeys(CLAIMS, "passed"))
    grown = image(tmp_path / "grown", **{"usr__lib__systemd__system__b.service": "", "usr__bin__dash!": ""})
    assert statuses(grown, own, tmp_path / "broken") == (
        1, {"few-units": "failed", "few-udev-rules": "passed", "setuid-known": "failed"})  # fmt: skip
