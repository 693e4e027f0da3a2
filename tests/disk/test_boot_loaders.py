"""Which firmware a disk is made for is read from the disk: boot code, its place, and UEFI's default loader."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifsea_testbed.disk.boot_loaders import boot_loaders
from lifsea_testbed.disk.partitions import BIOS_BOOT, ESP
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.support.firmware import BootLoaders, Firmware
from tests.support import disks
from tests.support.boot_sector import make_bootable

LOADER = {"efi/Boot/bootx64.efi": "MZ"}


def read(disk: Path) -> BootLoaders:
    with RawFile(disk) as source:
        return boot_loaders(source)


def made(directory: Path, files: dict[str, str], *, label: str = "gpt", kind: str = ESP, code: bool = False) -> Path:
    """A disk with a BIOS boot partition, where it has a GPT, and a FAT file system of that type with those files."""
    content = disks.fill(directory / "content", {"readme": "", **files})
    path = directory / "disk.raw"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    rows = [f"start=10240, size=100, type={BIOS_BOOT}", f"start=2048, size=8192, type={kind}"] if label == "gpt" else \
        [f"start=2048, size=8192, type={kind}"]  # fmt: skip
    disks.run("sfdisk", "--quiet", path, given="\n".join([f"label: {label}", *rows, ""]))
    disks.fat(path, content, offset=1 << 20, size=4)
    return make_bootable(path, "x") if code else path


@pytest.mark.parametrize(("label", "kind"), [
    ("gpt", ESP), ("gpt", "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"), ("dos", "ef"), ("dos", "0c"),
])  # fmt: skip
def test_the_default_loader_is_found_on_any_fat(tmp_path: Path, label: str, kind: str) -> None:
    found = read(made(tmp_path, LOADER, label=label, kind=kind))
    assert (found.code, found.default_loader) == (False, 2 if label == "gpt" else 1)
    assert found.choice()[0] is Firmware.UEFI
    assert found.lacks(Firmware.UEFI) == found.lacks(Firmware.UEFI_SECURE) == ""
    assert "no boot code" in found.lacks(Firmware.BIOS)


def test_a_disk_for_both_boots_by_bios(tmp_path: Path) -> None:
    found = read(made(tmp_path, LOADER, code=True))
    assert found == BootLoaders(code=True, place_for_bios=True, default_loader=2)
    firmware, why = found.choice()
    assert firmware is Firmware.BIOS and "boot code; partition 2 has \\EFI\\BOOT\\BOOTX64.EFI" in why
    assert not any(map(found.lacks, Firmware))


def test_an_esp_without_a_default_loader_is_nothing_to_boot(tmp_path: Path) -> None:
    found = read(made(tmp_path, {"EFI/debian/grubx64.efi": "MZ"}))
    assert found == BootLoaders(code=False, place_for_bios=True, default_loader=0)
    assert "no partition has UEFI's default loader" in found.lacks(Firmware.UEFI)
    assert found.lacks(found.choice()[0])


def test_boot_code_without_a_place_for_more_is_a_message_beside_a_loader(tmp_path: Path) -> None:
    found = BootLoaders(code=True, place_for_bios=False, default_loader=1)
    assert found.choice()[0] is Firmware.UEFI and not found.lacks(Firmware.BIOS)
    assert BootLoaders(code=True, place_for_bios=False, default_loader=0).choice()[0] is Firmware.BIOS


def test_a_damaged_esp_is_left_to_the_firmware(tmp_path: Path) -> None:
    disk = made(tmp_path, LOADER)
    with disk.open("r+b") as file:
        file.seek((1 << 20) + 19)  # the number of its sectors
        file.write(b"\xff\xff")
    found = read(disk)
    assert not found.default_loader and "ESP, partition 2, cannot be read" in found.unread
    assert found.choice()[0] is Firmware.UEFI and not found.lacks(Firmware.UEFI)
