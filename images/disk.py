"""A disk with the layout of LifseaOS, built without any mount."""

from __future__ import annotations

from pathlib import Path

from images import bootloader
from images.bootloader import BootLoader
from images.command import run

_MEBIBYTE = 1 << 20
_ESP, _BOOT = 127, 384
_ESP_START = 2
_BOOT_START = _ESP_START + _ESP
_ROOT_START = _BOOT_START + _BOOT
# Types: BIOS boot, EFI system, Linux data (UEFI specification 2.10, table 5.7; GRUB manual 3.4).
_TABLE = """\
label: gpt
start={core}, size=1M, type=21686148-6449-6E6F-744E-656564454649, name=BIOS-BOOT
start={esp}M, size={esp_size}M, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=EFI-SYSTEM
start={boot}M, size={boot_size}M, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=boot
start={root}M, size={root_size}M, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root
"""
_METADATA = "start={start}M, size={size}M, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=metadata\n"


def make(image: Path, *, boot: Path, root: Path, root_size: int, loader: BootLoader, metadata: int = 0) -> None:
    """Makes a qcow2 image: BIOS boot, an ESP, /boot and / (`root_size` in MiB), and the boot loader.

    A loader for UEFI lies on the ESP, which is empty otherwise. With `metadata` (MiB) there is a fifth partition behind
    them: a file system with an upper and a work directory.
    """
    raw = image.with_suffix(".raw")
    metadata_start = _ROOT_START + root_size
    with raw.open("wb") as file:
        file.truncate((metadata_start + metadata + 1) * _MEBIBYTE)
    table = _TABLE.format(core=bootloader.CORE_SECTOR, esp=_ESP_START, esp_size=_ESP, boot=_BOOT_START,
                          boot_size=_BOOT, root=_ROOT_START, root_size=root_size)  # fmt: skip
    table += _METADATA.format(start=metadata_start, size=metadata) if metadata else ""
    run("sfdisk", "--quiet", raw, given=table)
    # With clusters of a sector each there are enough for FAT32 (UEFI: Microsoft's specification, at least 65525).
    run("mkfs.fat", "-F", "32", "-s", "1", "-n", "EFI-SYSTEM", "--offset", str(_ESP_START * 2048), raw,
        str(_ESP * 1024))  # fmt: skip
    _file_system(raw, boot, "boot", start=_BOOT_START, size=_BOOT)
    _file_system(raw, root, "root", start=_ROOT_START, size=root_size)
    if metadata:
        _file_system(raw, _layers(root.with_name("metadata")), "metadata", start=metadata_start, size=metadata)
    bootloader.install(loader, raw, esp=_ESP_START * _MEBIBYTE)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
    raw.unlink()


def _file_system(disk: Path, content: Path, label: str, *, start: int, size: int) -> None:
    # The kernel must not initialise anything later: its writes would be in every measurement.
    options = f"lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,offset={start * _MEBIBYTE}"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-d", content, "-E", options, disk, f"{size}M")


def _layers(directory: Path) -> Path:
    """Creates the directories that an overlay needs on the file system of its upper layer."""
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True)
    return directory
