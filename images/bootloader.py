"""GRUB on a disk, for a BIOS or behind shim for UEFI: its configuration lies on /boot, and it follows /boot/loader."""

from __future__ import annotations

import enum
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from images.archive import Archive
from images.command import run
from images.errors import BuildError
from images.store import Store

# The first GRUB with blscfg, which reads the boot entries that ostree writes, is 2.14. It is a later suite's, and runs
# by that suite's own C library.
_SUITE = "sid"
_LIBRARIES = ["libc6", "libdevmapper1.02.1", "liblzma5"]
_MODULES = (
    "part_gpt ext2 normal linux blsuki serial terminal test echo configfile search search_label search_fs_uuid probe "
    "ls cat minicmd halt reboot boot loadenv"
)
_BIOS_PREFIX = "(hd0,gpt3)/grub2"
_BIOS_EARLY = f"set root=(hd0,gpt3)\nset prefix={_BIOS_PREFIX}\n"
# UEFI numbers disks as it likes.
_UEFI_EARLY = "search.fs_label boot root\nset prefix=($root)/grub2\n"
#: Where UEFI looks for the loader of a disk (UEFI specification 2.10, 3.5.1.1), and shim, beside itself, for GRUB.
ESP_LOADER, ESP_GRUB = Path("EFI/BOOT/BOOTX64.EFI"), Path("EFI/BOOT/grubx64.efi")
_SECTOR = 512
#: Where core.img lies: the first sector of the BIOS boot partition.
CORE_SECTOR = 2048
# Offsets in boot.img and core.img (GRUB's include/grub/i386/pc/boot.h and boot.S).
_KERNEL_SECTOR, _BOOT_DRIVE, _DRIVE_CHECK = 0x5C, 0x64, 0x66
_FIRST_BLOCK_LIST = _SECTOR - 12
_CORE_SEGMENT = 0x820
_BOOT_CODE = 440


class Platform(enum.StrEnum):
    """What GRUB is built for, by GRUB's own names."""

    BIOS = "i386-pc"
    UEFI = "x86_64-efi"


@dataclass(frozen=True, kw_only=True)
class BootLoader:
    """A directory with GRUB's boot.img and core.img for a BIOS; for UEFI with the content of the ESP: shim and GRUB."""

    platform: Platform
    directory: Path


def bootloader(store: Store, platform: Platform) -> BootLoader:
    """Returns the boot loader for that platform."""
    name, build = ("grub", _build_bios) if platform is Platform.BIOS else ("esp", _build_uefi)
    made = store.artefact(name, [Path(__file__)], lambda into: build(store, into))
    return BootLoader(platform=platform, directory=made)


def install(loader: BootLoader, disk: Path, *, esp: int) -> None:
    """Writes a boot loader into a disk whose ESP begins at that byte.

    A BIOS's boot.img lies before the partition table, its core.img at sector CORE_SECTOR.
    """
    if loader.platform is Platform.UEFI:
        run("mcopy", "-s", "-i", f"{disk}@@{esp}", loader.directory / ESP_LOADER.parts[0], "::")
        return
    core = (loader.directory / "core.img").read_bytes()
    core += bytes(-len(core) % _SECTOR)
    with disk.open("r+b") as file:
        file.write(boot_code((loader.directory / "boot.img").read_bytes()))
        file.seek(CORE_SECTOR * _SECTOR)
        file.write(with_block_list(core))


def boot_code(boot: bytes) -> bytes:
    """Returns the 440 bytes of boot.img that go before a partition table, told where core.img begins."""
    code = bytearray(boot[:_BOOT_CODE])
    struct.pack_into("<Q", code, _KERNEL_SECTOR, CORE_SECTOR)
    code[_BOOT_DRIVE] = 0xFF  # the drive that the firmware booted from
    code[_DRIVE_CHECK:_DRIVE_CHECK + 2] = b"\x90\x90"  # no jump: believe the firmware's drive number
    return bytes(code)


def with_block_list(core: bytes) -> bytes:
    """Returns core.img, told that all its sectors after the first follow it without a gap."""
    told = bytearray(core)
    rest = len(core) // _SECTOR - 1
    struct.pack_into("<QHH", told, _FIRST_BLOCK_LIST, CORE_SECTOR + 1, rest, _CORE_SEGMENT)
    return bytes(told)


def refuse_overflowing_entry(entry: str) -> None:
    """Refuses a boot entry that GRUB 2.14 stumbles over.

    Its blscfg (bls_get_linux in commands/blsuki.c) allocates one byte too few, which hurts when the size is a multiple
    of 16: the boot then waits 10 s.

    Raises:
        BuildError: this entry would.
    """
    fields = dict(line.split(" ", 1) for line in entry.splitlines() if " " in line)
    if (len(fields["options"]) + len(fields["linux"]) + len("linux  \n")) % 16 == 0:
        raise BuildError("GRUB 2.14 would stumble over this boot entry: make its kernel arguments one byte longer")


def _build_bios(store: Store, into: Path) -> None:
    with store.scratch() as scratch:
        _unpack(scratch, "grub-pc-bin")
        _make_image(scratch, Platform.BIOS, into / "core.img", _BIOS_EARLY, "biosdisk", "--prefix", _BIOS_PREFIX)
        (into / "boot.img").write_bytes((_modules(scratch, Platform.BIOS) / "boot.img").read_bytes())


def _build_uefi(store: Store, into: Path) -> None:
    with store.scratch() as scratch:
        _unpack(scratch, "grub-efi-amd64-bin", "grub-efi-amd64-unsigned", "shim-signed")
        (into / ESP_LOADER).parent.mkdir(parents=True)
        shutil.copyfile(scratch / "grub/usr/lib/shim/shimx64.efi.signed", into / ESP_LOADER)
        # shim loads nothing without SBAT: the lines that Debian's own GRUB of this version has.
        made = _modules(scratch, Platform.UEFI) / "monolithic/grubx64.efi"
        run("objcopy", "--output-target=binary", "--only-section=.sbat", made, scratch / "sbat.csv")
        _make_image(scratch, Platform.UEFI, into / ESP_GRUB, _UEFI_EARLY, "fat", "--prefix", "/grub2",
                    "--sbat", str(scratch / "sbat.csv"))  # fmt: skip


def _unpack(scratch: Path, *packages: str) -> None:
    archive = Archive(scratch / "apt", packages=_SUITE)
    archive.unpack([*packages, "grub2-common"], scratch / "grub")
    archive.unpack(_LIBRARIES, scratch / "libraries")


def _modules(scratch: Path, platform: Platform) -> Path:
    return scratch / "grub/usr/lib/grub" / platform


def _make_image(scratch: Path, platform: Platform, image: Path, early: str, module: str, *options: str) -> None:
    """Makes a GRUB with an early configuration by a later suite's grub-mkimage, which runs by its own C library."""
    (scratch / "early.cfg").write_text(early)
    libraries = scratch / "libraries/usr/lib/x86_64-linux-gnu"
    run(libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, scratch / "grub/usr/bin/grub-mkimage",
        "--directory", _modules(scratch, platform), "--format", platform, "--config", scratch / "early.cfg", *options,
        "--output", image, module, *_MODULES.split())  # fmt: skip
