"""An initramfs leaves signs, whichever way it is loaded."""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from lifsea_testbed.disk import image
from lifsea_testbed.guest import initramfs, offline
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.profiles import profile
from tests.support import disks
from tests.support.fakes import FakeShell

COMPLETE = "5,0,0,-;Linux version 6.1\n"


def pe(*sections: str) -> bytes:
    """The start of a PE file with those sections (Microsoft's PE format: COFF header, no optional header)."""
    rows = b"".join(name.encode().ljust(8, b"\0").ljust(40, b"\1") for name in sections)
    header = struct.pack("<4sHH12xHH", b"PE\0\0", 0x8664, len(sections), 0, 0)
    return b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 64) + header + rows


@pytest.mark.parametrize("line", [
    "initrd /initrd.img", "\tinitrd16 /initrd.img", "  initrdefi /i", "    INITRD ../i", "initrd=/i", "initrd\t/i",
    "options root=/dev/vda4 initrd=/initrd.img quiet", "linux /vmlinuz initrd=/x", "kernelopts=root=/x initrd=/i",
    "APPEND root=/dev/vda1 initrd=i", 'options="initrd=/i"',
])  # fmt: skip
def test_a_line_that_loads_one_is_a_sign(line: str) -> None:
    assert initramfs.parse_entry("e", f"title x\n{line}\n") == [f"e:{line}"]


@pytest.mark.parametrize("line", [
    "# initrd /x", "CONFIG_BLK_DEV_INITRD=y", "options root=/dev/vda4 ro", "linux /vmlinuz", "title no initrd here",
    "#options initrd=/x", "noinitrd=1",
])  # fmt: skip
def test_another_line_is_none(line: str) -> None:
    assert initramfs.parse_entry("e", f"{line}\n") == []


@pytest.mark.parametrize(("start", "holds"), [
    (pe(".text", ".linux", ".initrd"), True), (pe(".text", ".linux"), False), (pe(".initrdx"), False),
    (b"MZ", False), (b"", False), (pe(".initrd")[:70], False), (pe(".initrd").replace(b"PE\0\0", b"NE\0\0"), False),
])  # fmt: skip
def test_a_unified_image_is_known_by_its_sections(start: bytes, holds: bool) -> None:
    assert initramfs.holds_initramfs(start) is holds


def test_the_guest_prints_the_starts_of_such_files_alone(tmp_path: Path) -> None:
    files = {"a b.efi": pe(".initrd"), "c.EFI": pe(".linux"), "grub.cfg": b"MX", "large": bytes(9000)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    script = initramfs.UNIFIED.replace("/boot /efi", shlex.quote(str(tmp_path)))
    shown = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, text=True).stdout
    assert shown.count("\0") == 2
    assert initramfs.parse_unified(shown) == [f"{tmp_path}/a b.efi: a unified kernel image with an initramfs"]


def test_the_guests_search_finds_the_lines(tmp_path: Path) -> None:
    (tmp_path / "e.conf").write_text("options initrd=/x\n")
    (tmp_path / "config").write_text("CONFIG_BLK_DEV_INITRD=y\n")
    (tmp_path / "vmlinuz").write_bytes(b"\0\ninitrd /x\n")
    script = initramfs.SCRIPT.replace("/boot /efi", shlex.quote(str(tmp_path)))
    shown = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, text=True,
                           env={"PATH": os.environ["PATH"]}).stdout  # fmt: skip
    assert [line for line in shown.splitlines() if line.startswith(str(tmp_path))] == [
        f"{tmp_path}/e.conf:options initrd=/x"]


def test_signs_come_from_files_images_and_the_log() -> None:
    built_in = "5,1,9,-;Run /init as init process\n"
    shell = FakeShell({"boot_params": "the boot loader passed an initramfs of 7 bytes\n",
                       "4d5a": f"/boot/x.efi\n{pe('.initrd').hex()}\0", "/dev/kmsg": COMPLETE + built_in})  # fmt: skip
    assert Kernel(shell).initramfs_signs() == [
        "the boot loader passed an initramfs of 7 bytes", "/boot/x.efi: a unified kernel image with an initramfs",
        "[    0.000009] Run /init as init process",
    ]  # fmt: skip
    assert Kernel(FakeShell({"boot_params": "", "4d5a": "", "/dev/kmsg": COMPLETE})).initramfs_signs() == []


@pytest.mark.parametrize(("files", "expected"), [
    ({"boot/loader/entries/a.conf": "linux /v\noptions ro initrd=/i\n"},
     ["/boot/loader/entries/a.conf:options ro initrd=/i"]),
    ({"boot/EFI/Linux/a.efi": pe(".initrd")}, ["/boot/EFI/Linux/a.efi: a unified kernel image with an initramfs"]),
    ({"boot/grub2/grubenv": "kernelopts=initrd=/i\n"}, ["/boot/grub2/grubenv:kernelopts=initrd=/i"]),
    ({"boot/grub2/grub.cfg": "linux /v\n", "boot/custom": "initrd /i\n"}, ["/boot/custom:initrd /i"]),
    ({"boot/grub2/grub.cfg": "linux /v\n", "boot/config-6.1": "CONFIG_BLK_DEV_INITRD=y\n"}, []),
])  # fmt: skip
def test_signs_are_read_from_a_disk(tmp_path: Path, files: dict[str, str | bytes], expected: list[str]) -> None:
    root = disks.fill(tmp_path / "root", {"etc/os-release": "ID=x\n", **files})
    tree = offline.read(image.examine(disks.disk(tmp_path / "disk.raw", root=root)))
    guest = Guest(FakeShell({}), lambda: profile.load("reference"), lambda: tree)
    assert guest.kernel.initramfs_signs() == expected


def test_an_entry_is_known_by_its_path() -> None:
    assert initramfs.is_entry(PurePosixPath("/partition-1/loader/entries/a.conf"))
    assert not initramfs.is_entry(PurePosixPath("/partition-1/etc/a.conf"))
