"""GRUB on a disk: it reads its configuration from the third partition and can follow /boot/loader."""

from __future__ import annotations

import struct
from pathlib import Path

from images.archive import Archive
from images.command import run
from images.errors import BuildError
from images.store import Store

# The first GRUB with blscfg, which reads the boot entries that ostree writes, is 2.14. It is a later suite's, and runs
# by that suite's own C library.
_SUITE = "sid"
_PACKAGES = ["grub-pc-bin", "grub2-common"]
_LIBRARIES = ["libc6", "libdevmapper1.02.1", "liblzma5"]
_MODULES = (
    "biosdisk part_gpt ext2 normal linux blsuki serial terminal test echo configfile search search_label "
    "search_fs_uuid probe ls cat minicmd halt reboot boot loadenv"
)
_EARLY = "set root=(hd0,gpt3)\nset prefix=(hd0,gpt3)/grub2\n"
_SECTOR = 512
#: Where core.img lies: the first sector of the BIOS boot partition.
CORE_SECTOR = 2048
# Offsets in boot.img and core.img (GRUB's include/grub/i386/pc/boot.h and boot.S).
_KERNEL_SECTOR, _BOOT_DRIVE, _DRIVE_CHECK = 0x5C, 0x64, 0x66
_FIRST_BLOCK_LIST = _SECTOR - 12
_CORE_SEGMENT = 0x820
_BOOT_CODE = 440


def bootloader(store: Store) -> Path:
    """Returns a directory with GRUB's boot.img and core.img."""
    return store.artefact("grub", [Path(__file__)], lambda into: _build(store, into))


def install(grub: Path, disk: Path) -> None:
    """Writes GRUB into a disk: boot.img before the partition table, core.img at sector CORE_SECTOR."""
    core = (grub / "core.img").read_bytes()
    core += bytes(-len(core) % _SECTOR)
    with disk.open("r+b") as file:
        file.write(boot_code((grub / "boot.img").read_bytes()))
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


def _build(store: Store, into: Path) -> None:
    with store.scratch() as scratch:
        archive = Archive(scratch / "apt", packages=_SUITE)
        archive.unpack(_PACKAGES, scratch / "grub")
        archive.unpack(_LIBRARIES, scratch / "libraries")
        early = scratch / "early.cfg"
        early.write_text(_EARLY)
        libraries = scratch / "libraries/usr/lib/x86_64-linux-gnu"
        platform = scratch / "grub/usr/lib/grub/i386-pc"
        run(libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, scratch / "grub/usr/bin/grub-mkimage",
            "--directory", platform, "--format", "i386-pc", "--prefix", "(hd0,gpt3)/grub2", "--config", early,
            "--output", into / "core.img", *_MODULES.split())  # fmt: skip
        (into / "boot.img").write_bytes((platform / "boot.img").read_bytes())
