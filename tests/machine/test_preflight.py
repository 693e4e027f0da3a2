"""Preflight chooses the profile of an image by its disk, or refuses in one line; nothing boots before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lifsea_testbed.cli.main import main
from lifsea_testbed.disk.image import Image, examine
from lifsea_testbed.errors import ImageRefused, NotJudged, ProfileRefused, Reason
from lifsea_testbed.guest.offline import OfflineTree
from lifsea_testbed.machine.context import AUTO
from lifsea_testbed.machine.preflight import choose_firmware, choose_profile
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import Profile
from tests.support import ROOT, disks
from tests.support.boot_sector import make_bootable, raw_image


def made(tmp_path: Path, root: Mapping[str, str | bytes], boot: Mapping[str, str | bytes] | None = None) -> Path:
    """A disk with those files on its root file system, the second partition, and on its first."""
    other = disks.fill(tmp_path / "boot", boot) if boot else None
    return disks.disk(tmp_path / "disk.raw", root=disks.fill(tmp_path / "root", root), boot=other)


@pytest.mark.parametrize(("root", "name", "why"), [
    ({"usr/lib/os-release": "ID=lifsea\nVERSION_ID=3.5.1\n"}, "lifsea-3.5", "VERSION_ID=3.5.1 on partition 2"),
    ({"usr/lib/os-release": "ID=flatcar\n", "etc/os-release": "-> ../nowhere"}, "flatcar", "ID=flatcar on partition 2"),
    ({"etc/os-release": 'ID="lifsea"\nVERSION_ID="3"\n', "usr/bin/sh*": "", "bin": "-> usr/bin"}, "lifsea-3.3",
     "has /bin/sh, lacks /usr/bin/rpm-ostree"),
    ({"etc/system-release": "Alibaba Cloud Linux Lifsea (ContainerOS) release 3\n"}, "lifsea-3.5",
     "system-release Alibaba Cloud Linux Lifsea (ContainerOS) release 3 on partition 2"),
])  # fmt: skip
def test_an_image_is_recognised_by_its_disk(tmp_path: Path, root: dict[str, str], name: str, why: str) -> None:
    choice = choose_profile(AUTO, examine(made(tmp_path, root)))
    assert choice.name == name and why in choice.why


def test_of_two_root_file_systems_the_choice_names_the_one_that_was_read(tmp_path: Path) -> None:
    slot = {"etc/os-release": "ID=flatcar\nVERSION_ID=1\n"}
    choice = choose_profile(AUTO, examine(made(tmp_path, slot, slot)))
    assert "on partition 1 (partition 2 holds a system as well)" in choice.why


@pytest.mark.parametrize(("root", "complaint"), [
    ({"etc/os-release": "ID=fedora\nVARIANT_ID=workstation\nVERSION_ID=40\n"},
     "ID=fedora, VARIANT_ID=workstation, VERSION_ID=40 on partition 2) fits no profile"),
    ({"etc/os-release": "NAME=x\n"}, "no ID on partition 2) fits no profile"),
    ({"etc/os-release": "\n"}, "the image has no /etc/os-release, /usr/lib/os-release, /etc/system-release"),
    ({"etc/motd": ""}, "no partition that is read offline holds a root file system"),
])  # fmt: skip
def test_an_image_that_is_not_recognised_is_refused(tmp_path: Path, root: dict[str, str], complaint: str) -> None:
    with pytest.raises(ProfileRefused) as caught:
        choose_profile(AUTO, examine(made(tmp_path, root)))
    assert complaint in caught.value.happened
    assert "--profile" in caught.value.hint and "fedora-coreos" in caught.value.hint
    assert "\n" not in caught.value.one_line


def test_a_damaged_disk_is_refused_as_one_that_cannot_be_read(tmp_path: Path) -> None:
    entry = {"loader/entries/1.conf": "options ostree=/ostree/gone\n"}
    path = made(tmp_path, {"etc/os-release": "ID=flatcar\n"}, entry)
    with pytest.raises(ProfileRefused, match="not recognised: a boot entry names the deployment /ostree/gone"):
        choose_profile(AUTO, examine(path))


def test_a_named_profile_is_taken_whatever_the_disk_holds(tmp_path: Path) -> None:
    choice = choose_profile("flatcar", examine(raw_image(tmp_path / "disk.raw")))
    assert (choice.name, choice.why) == ("flatcar", "named by --profile")


def test_a_run_is_held_to_the_profile_of_the_image_and_its_header_says_why(tmp_path: Path) -> None:
    root = disks.fill(tmp_path / "root", {"usr/lib/os-release": "ID=lifsea-reference\nVERSION_ID=3.5.0\n"})
    image = make_bootable(disks.disk(tmp_path / "disk.raw", root=root, label="dos"), "lifsea: the system is up\n")
    command = [sys.executable, "-m", "pytest", "suites", "-n0", "-p", "no:cacheprovider", "--image", str(image),
               "--accel", "tcg", "--reports", str(tmp_path / "reports"), "--claim", "image-small"]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                         env={**os.environ, "TMPDIR": str(tmp_path)})  # fmt: skip
    gate = json.loads((tmp_path / "reports/gate.json").read_text())
    assert (run.returncode, gate["profile"], [claim["status"] for claim in gate["claims"]]) == (
        7, "reference-3.5", ["passed"])  # fmt: skip
    assert "profile reference-3.5 (chosen by ID=lifsea-reference, VERSION_ID=3.5.0 on partition 2" in run.stdout


UEFI = {"EFI/BOOT/BOOTX64.EFI": "MZ"}


def with_esp(directory: Path, files: Mapping[str, str | bytes], *, code: bool = False) -> Image:
    """A disk with those files on an ESP, and boot code in front of it or none."""
    path = directory / "disk.raw"
    path.write_bytes(bytes(6 << 20))
    disks.run("sfdisk", "--quiet", path, given="label: gpt\nstart=2048, size=8192, type=U\n")
    disks.fat(path, disks.fill(directory / "esp", {"readme": "", **files}), offset=1 << 20, size=4)
    return examine(make_bootable(path, "x") if code else path)


def reference(firmware: str = AUTO) -> Profile:
    profile = profiles.load("reference")
    return profile.model_copy(update={"boot": profile.boot.model_copy(update={"firmware": firmware})})


@pytest.mark.parametrize(("option", "named", "firmware", "why"), [
    (AUTO, AUTO, "uefi", "partition 1 has \\EFI\\BOOT\\BOOTX64.EFI, and a BIOS would find nothing"),
    ("uefi-secure", AUTO, "uefi-secure", "named by --firmware"), (AUTO, "uefi", "uefi", "named by the profile"),
    ("uefi", "bios", "uefi", "named by --firmware"),
])  # fmt: skip
def test_a_disk_for_uefi_boots_by_it(tmp_path: Path, option: str, named: str, firmware: str, why: str) -> None:
    assert choose_firmware(option, reference(named), with_esp(tmp_path, UEFI)) == (firmware, why)


@pytest.mark.parametrize(("option", "named", "complaint", "hint"), [
    ("bios", AUTO, "bios, named by --firmware, does not boot it: its first sector holds no boot code",
     "--firmware uefi: partition 1 has"),
    (AUTO, "bios", "bios, named by the profile, does not boot it", "--firmware uefi"),
])  # fmt: skip
def test_a_disk_for_uefi_is_refused_by_a_bios(
    tmp_path: Path, option: str, named: str, complaint: str, hint: str
) -> None:
    with pytest.raises(ImageRefused) as caught:
        choose_firmware(option, reference(named), with_esp(tmp_path, UEFI))
    assert complaint in caught.value.happened and hint in caught.value.hint


def test_a_disk_with_boot_code_boots_by_bios_alone(tmp_path: Path) -> None:
    image = examine(raw_image(tmp_path / "disk.raw", "up"))
    assert choose_firmware(AUTO, reference(), image) == ("bios", "its disk has boot code")
    with pytest.raises(ImageRefused, match="uefi, named by --firmware, does not boot it: no partition has UEFI's"):
        choose_firmware("uefi", reference(), image)


def test_a_disk_that_nothing_boots_is_refused_before_anything_starts(tmp_path: Path) -> None:
    image = with_esp(tmp_path, {})
    command = [sys.executable, "-m", "pytest", "suites", "-n0", "-p", "no:cacheprovider", "--image", str(image.path),
               "--profile", "reference", "--reports", str(tmp_path / "reports")]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 4 and not (tmp_path / "reports").exists()
    assert run.stderr.strip() == ("ERROR: disk.raw: it boots by no firmware: its first sector holds no boot code "
                                  "(hint: it needs a boot loader: make it again, for the whole disk)")  # fmt: skip


def test_a_disk_that_is_not_read_offline_is_left_to_the_firmware_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: OfflineTree) -> object:
        raise NotJudged("not read", Reason.IMAGE)

    monkeypatch.setattr(OfflineTree, "loaders", refuse)
    image = examine(raw_image(tmp_path / "disk.raw"))
    assert choose_firmware(AUTO, reference(), image) == ("bios", "its disk is not read offline")
    assert choose_firmware("uefi", reference(), image) == ("uefi", "named by --firmware")


@pytest.mark.parametrize("command", ["shell", "boot-time"])
def test_an_image_without_a_profile_ends_with_status_4(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = raw_image(tmp_path / "disk.raw")
    assert main([command, "--image", str(image), "--reports", str(tmp_path / "reports")]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: --profile auto: disk.raw: the OS on its disk is not recognised: ")
    assert not (tmp_path / "reports").exists()
