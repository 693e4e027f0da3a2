"""Disks with a tiny operating system that UEFI boots: the smallest images that it boots, from an ESP."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from tests.support import disks

_SOURCE = Path(__file__).with_name("efi_program.S")
#: Where the ESP starts and ends on the disk, in MiB; the table's copy lies behind it.
_START, _SIZE = 1, 4
#: Variables with a key of Debian's `ovmf` enrolled that anybody can sign with, and that key.
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")
_KEY, _CERTIFICATE = (Path(f"/usr/share/ovmf/PkKek-1-snakeoil.{kind}") for kind in ("key", "pem"))
_PASSWORD = "snakeoil"


@functools.cache
def program() -> bytes:
    """Returns the program: it counts its boots in a variable and prints the number on ttyS0 (efi_program.S)."""
    with tempfile.TemporaryDirectory() as place:
        elf, pe, linked = (Path(place) / name for name in ("elf.o", "pe.o", "linked"))
        disks.run("as", "-o", elf, _SOURCE)
        disks.run("objcopy", "-O", "pe-x86-64", elf, pe)
        disks.run("ld", "-s", "-m", "i386pep", "--subsystem", "10", "--image-base", "0", "-e", "start",
                  "-o", linked, pe)  # fmt: skip
        return linked.read_bytes()


def signed(loader: bytes) -> bytes:
    """Returns that program with a signature by the key that VARIABLES trust."""
    with tempfile.TemporaryDirectory() as place:
        key, plain, made = (Path(place) / name for name in ("key", "plain", "made"))
        plain.write_bytes(loader)
        disks.run("openssl", "rsa", "-in", _KEY, "-passin", f"pass:{_PASSWORD}", "-out", key)
        disks.run("sbsign", "--key", key, "--cert", _CERTIFICATE, "--output", made, plain)
        return made.read_bytes()


def efi_image(path: Path, loader: bytes | None = None) -> Path:
    """Writes a raw disk whose ESP has that default loader, or the program."""
    content = path.with_suffix(".esp")
    disks.fill(content, {"EFI/BOOT/BOOTX64.EFI": program() if loader is None else loader})
    path.write_bytes(bytes((_START + _SIZE + 1) << 20))
    disks.run("sfdisk", "--quiet", path, given=f"label: gpt\nstart={_START * 2048}, size={_SIZE * 2048}, type=U\n")
    return disks.fat(path, content, offset=_START << 20, size=_SIZE)
