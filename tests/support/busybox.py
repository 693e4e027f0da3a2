"""A system of busybox alone, without systemd, on the kernel and by the boot loader of the reference image.

It runs user-data once, from the metadata service, and mounts /run so that no program runs from there, as Debian does.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from images import disk
from images.bootloader import BootLoader, Platform
from lifsea_testbed.disk import image
from lifsea_testbed.guest import offline
from tests.support import disks

PROFILE = """
extends = "reference"
name = "busybox"
claims = ["boots-to-ready", "no-python", "shell-kept"]
[identity]
os_id = "busybox"
[boot]
shell_within = 60
"""
_INITTAB = """\
::sysinit:/etc/rc
::shutdown:/bin/umount -a -r
"""
_RC = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o noexec,nosuid tmpfs /run
mkdir /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -o remount,rw /
hostname busybox
ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -q -n -s /etc/udhcpc
[ -e /etc/first-boot ] || exit
wget -q -O /etc/user-data http://100.100.100.200/latest/user-data && rm /etc/first-boot && sh /etc/user-data
"""
_UDHCPC = """#!/bin/sh
[ "$1" != bound ] || ip addr add "$ip/16" dev "$interface"
"""
_GRUB = """\
linux /vmlinuz root=/dev/vda4 rootfstype=ext4 ro console=ttyS0 init=/sbin/init
boot
"""
_ROOT_SIZE = 64


def busybox(place: Path, reference: Path) -> Path:
    """Returns an image of such a system, made of the reference image's kernel and boot loader."""
    boot, root = _boot(place, reference), _root(place / "root")
    made = place / "busybox.qcow2"
    loader = BootLoader(platform=Platform.BIOS, directory=_loader(place / "loader", reference))
    disk.make(made, boot=boot, root=root, root_size=_ROOT_SIZE, loader=loader)
    return made


def _boot(place: Path, reference: Path) -> Path:
    tree = offline.read(image.examine(reference))
    (place / "boot/grub2").mkdir(parents=True)
    with (place / "boot/vmlinuz").open("wb") as kernel:
        kernel.writelines(tree.content(tree.first_entry().kernel))
    (place / "boot/grub2/grub.cfg").write_text(_GRUB)
    return place / "boot"


def _loader(place: Path, reference: Path) -> Path:
    """GRUB, as it lies on the disk of the reference image: in front of the first partition, and in it."""
    place.mkdir()
    first = place / "first.raw"
    disks.run("qemu-img", "dd", "-O", "raw", f"if={reference}", f"of={first}", "bs=1M", "count=2")
    content = first.read_bytes()
    (place / "boot.img").write_bytes(content[:512])
    (place / "core.img").write_bytes(content[1 << 20:].rstrip(b"\0"))
    return place


def _root(root: Path) -> Path:
    for name in ("bin", "sbin", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var/tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    listed = subprocess.run(["busybox", "--list-full"], capture_output=True, text=True, check=True).stdout
    for path in (root / name for name in listed.split() if name != "bin/busybox"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.symlink_to("/bin/busybox")
    files = {"inittab": _INITTAB, "rc": _RC, "udhcpc": _UDHCPC, "first-boot": "",
             "passwd": "root:x:0:0::/root:/bin/sh\n", "os-release": "ID=busybox\nVERSION_ID=1\n"}  # fmt: skip
    for name, text in files.items():
        (root / "etc" / name).write_text(text)
    for name in ("rc", "udhcpc"):
        (root / "etc" / name).chmod(0o755)
    return root
