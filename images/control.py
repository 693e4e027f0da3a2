"""The control image: an ordinary Debian, which keeps hardly any of the promises."""

from __future__ import annotations

import shutil
from pathlib import Path

from images import bootloader, disk, kubelet, progress, tree
from images.errors import BuildError
from images.store import Store

_HERE = Path(__file__).parent
_FILES = _HERE / "control" / "files"
_CODE = [_HERE / name for name in ("control.py", "tree.py", "disk.py", "bootloader.py")]
_SUITE = "bookworm"
_ROOT_SIZE = 3000
# With the standard packages, more than 400: the traditional server that LifseaOS is compared with.
_PACKAGES = [
    "linux-image-amd64", "initramfs-tools", "systemd-sysv", "systemd-resolved", "dbus", "udev", "openssh-server",
    "python3", "perl", "cloud-init", "cloud-guest-utils", "fdisk", "chrony", "curl", "sudo", "vim", "git", "rsync",
    "build-essential", "tmux", "htop", "strace", "tcpdump", "ethtool", "iptables", "containerd", "runc",
    "containernetworking-plugins", "conntrack", "socat", "netbase", "iproute2", "man-db", "locales", "nfs-common",
    "unattended-upgrades", "postfix",
]  # fmt: skip
_HOOKS = [
    'chroot "$1" systemctl enable systemd-networkd.service systemd-networkd-wait-online.service',
    'rm -f "$1"/etc/machine-id && echo uninitialized >"$1"/etc/machine-id',
]
_GRUB = """\
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
linux /{kernel} root=/dev/vda4 ro console=tty0 console=ttyS0,115200n8 net.ifnames=0
initrd /{initrd}
boot
"""


def build(store: Store) -> Path:
    """Returns the directory with the image (image.qcow2)."""
    program, grub = kubelet.kubelet(store), bootloader.bootloader(store)
    packages = tree.debian(store, "control", _SUITE, _PACKAGES, variant="standard", hooks=_HOOKS)

    def make(into: Path) -> None:
        with store.scratch() as scratch:
            root, boot = scratch / "tree", scratch / "boot"
            with progress.step("tree"):
                tree.unpack(packages, root)
                tree.overlay(root, _FILES)
                tree.add_program(root, program, "usr/local/bin/kubelet")
                wants = root / "etc/systemd/system/multi-user.target.wants"
                (wants / "kubelet.service").symlink_to("/etc/systemd/system/kubelet.service")
                (root / "boot").rename(boot)
                (root / "boot").mkdir()
                shutil.rmtree(boot / "grub2", ignore_errors=True)
                (boot / "grub2").mkdir()
                (boot / "grub2/grub.cfg").write_text(_GRUB.format(kernel=_one(boot, "vmlinuz-*"),
                                                                  initrd=_one(boot, "initrd.img-*")))  # fmt: skip
            with progress.step("disk"):
                disk.make(into / "image.qcow2", boot=boot, root=root, root_size=_ROOT_SIZE, grub=grub)

    return store.artefact("image-control", [*_CODE, _FILES, *map(str, (program, grub, packages))], make)


def _one(directory: Path, pattern: str) -> str:
    found = [path.name for path in directory.glob(pattern)]
    if len(found) != 1:
        raise BuildError(f"expected one {pattern} among the installed packages, found {found}")
    return found[0]
