"""An ostree sysroot with one deployment: the root file system of the image."""

from __future__ import annotations

import shutil
from pathlib import Path

from images import bootloader
from images.bootloader import Platform
from images.command import run

OS_NAME = "lifsea"
REF = "lifsea/3/x86_64"
_MOMENT = "2026-01-01 00:00:00 +0000"
# acpi=noirq: each virtio device costs 0.28 s under emulation with ACPI's interrupt links.
# gpt: a first boot whose power fails while it writes the partition table leaves the copy at the disk's end.
_KERNEL_ARGUMENTS = (
    "root=/dev/vda4 rw rootfstype=ext4 console=tty0 console=ttyS0,115200n8 net.ifnames=0 acpi=noirq rootwait gpt"
)
# The console of UEFI is on the serial line already.
_TERMINAL = {Platform.UEFI: "", Platform.BIOS: """\
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
"""}  # fmt: skip
_GRUB = """\
set timeout=0
set default=0
blscfg
"""


def make(tree: Path, sysroot: Path, version: str) -> str:
    """Commits a tree and deploys it; returns the commit, which is the same for the same tree and version."""
    sysroot.mkdir()
    repository = sysroot / "ostree/repo"
    run("ostree", "admin", "init-fs", sysroot)
    run("ostree", "admin", f"--sysroot={sysroot}", "os-init", OS_NAME)
    # readonly: /sysroot takes no writes. none: ostree writes boot entries only, and GRUB reads them itself.
    for key, value in {"core.fsync": "false", "sysroot.readonly": "true", "sysroot.bootloader": "none"}.items():
        run("ostree", f"--repo={repository}", "config", "set", key, value)
    commit = run("ostree", f"--repo={repository}", "commit", f"--branch={REF}", f"--subject=version {version}",
                 f"--timestamp={_MOMENT}", f"--add-metadata-string=version={version}",
                 f"--tree=dir={tree}")  # fmt: skip
    arguments = [f"--karg-append={argument}" for argument in _KERNEL_ARGUMENTS.split()]
    run("ostree", "admin", f"--sysroot={sysroot}", "deploy", f"--os={OS_NAME}", *arguments, REF)
    run("ostree", f"--repo={repository}", "config", "set", "core.fsync", "true")
    for entry in (sysroot / "boot/loader/entries").glob("*.conf"):
        bootloader.refuse_overflowing_entry(entry.read_text())
    return commit.strip()


def split_boot(sysroot: Path, boot: Path, platform: Platform) -> None:
    """Moves the files of the boot partition out of the sysroot, and adds GRUB's configuration."""
    (sysroot / "boot").rename(boot)
    (sysroot / "boot").mkdir()
    (boot / "grub2").mkdir()
    (boot / "grub2/grub.cfg").write_text(_TERMINAL[platform] + _GRUB)


def put_into_var(sysroot: Path, content: Path, path: str) -> None:
    """Copies a directory to a path below the deployed system's /var."""
    target = sysroot / "ostree/deploy" / OS_NAME / "var" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    run("cp", "--archive", content, target)
