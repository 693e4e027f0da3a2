"""The control image: an ordinary Debian, which keeps few of the promises."""

from __future__ import annotations

import shutil
from pathlib import Path

from images import bootloader, disk, kubelet, progress, tree
from images.bootloader import Platform
from images.errors import BuildError
from images.store import Store

_HERE = Path(__file__).parent
_FILES = _HERE / "control" / "files"
_CODE = [_HERE / name for name in ("control.py", "tree.py", "disk.py", "bootloader.py")]
_SUITE = "bookworm"
_ROOT_SIZE = 3000
# Debian's standard packages (without systemd-timesyncd, which chrony excludes) and those of a server: more than 400
# packages, the traditional system that LifseaOS is compared with.
_STANDARD = [
    "apt-listchanges", "bash-completion", "bzip2", "dbus", "debian-faq", "doc-debian", "file", "gettext-base",
    "libc-l10n", "locales", "groff-base", "inetutils-telnet", "krb5-locales", "liblockfile-bin", "lsof", "man-db",
    "manpages", "media-types", "mime-support", "ncurses-term", "netcat-traditional", "openssh-client", "pciutils",
    "python3-reportbug", "reportbug", "wamerican", "libnss-systemd", "libpam-systemd", "traceroute", "ucf",
    "util-linux-extra", "wget", "bind9-dnsutils", "bind9-host", "ca-certificates", "perl", "xz-utils",
]  # fmt: skip
_SERVER = [
    "linux-image-amd64", "initramfs-tools", "systemd-sysv", "systemd-resolved", "udev", "openssh-server", "python3",
    "cloud-init", "cloud-guest-utils", "fdisk", "chrony", "curl", "sudo", "vim", "git", "rsync", "build-essential",
    "tmux", "htop", "strace", "tcpdump", "ethtool", "iptables", "containerd", "runc", "containernetworking-plugins",
    "conntrack", "socat", "netbase", "iproute2", "nfs-common", "unattended-upgrades", "postfix",
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
    program, loader = kubelet.kubelet(store), bootloader.bootloader(store, Platform.BIOS)
    packages = tree.debian(store, "control", _SUITE, _STANDARD + _SERVER, variant="important",
                           hooks=_HOOKS)  # fmt: skip

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
                disk.make(into / "image.qcow2", boot=boot, root=root, root_size=_ROOT_SIZE, loader=loader)

    return store.artefact("image-control", [*_CODE, _FILES, *map(str, (program, loader.directory, packages))], make)


def _one(directory: Path, pattern: str) -> str:
    found = [path.name for path in directory.glob(pattern)]
    if len(found) != 1:
        raise BuildError(f"expected one {pattern} among the installed packages, found {found}")
    return found[0]
