"""The packages that provide the programs of the host, and the command that installs them there: for hints in errors."""

from __future__ import annotations

from pathlib import Path

#: Program → the package of Debian, and that of the rpm family (Alibaba Cloud Linux, Anolis OS, CentOS Stream, Fedora).
_PACKAGES = {
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-kvm"), "qemu-img": ("qemu-utils", "qemu-img"),
    "socat": ("socat", "socat"), "setpriv": ("util-linux", "util-linux"), "bwrap": ("bubblewrap", "bubblewrap"),
    "prlimit": ("util-linux", "util-linux"), "nsenter": ("util-linux", "util-linux"),
    "ovmf": ("ovmf", "edk2-ovmf"),
    "gcc": ("gcc libc6-dev", "gcc glibc-devel"), "as": ("binutils", "binutils"), "ld": ("binutils", "binutils"),
}  # fmt: skip
_APT, _DNF = Path("/usr/bin/apt-get"), Path("/usr/bin/dnf")
#: RHEL and its relatives install QEMU where no PATH leads, under another name.
_QEMU_ELSEWHERE = "then link /usr/libexec/qemu-kvm as qemu-system-x86_64 on PATH"


def install_hint(*programs: str) -> str:
    """Returns how to install these programs: by the package manager of this host, or by either if it has neither."""
    return _hint(programs, "apt-get install", "dnf install")


def reinstall_hint(*programs: str) -> str:
    """Returns how to install these programs anew, if they are there and do not work."""
    return _hint(programs, "apt-get install --reinstall", "dnf reinstall")


def _hint(programs: tuple[str, ...], apt: str, dnf: str) -> str:
    of_debian, of_rpm = (" ".join(dict.fromkeys(_PACKAGES[program][family] for program in programs))
                         for family in (0, 1))  # fmt: skip
    provided = f"(for {', '.join(programs)})"
    on_debian, on_rpm = f"{apt} {of_debian} {provided}", f"{dnf} {of_rpm} {provided}"
    if "qemu-system-x86_64" in programs:
        on_rpm += f", {_QEMU_ELSEWHERE}"
    if _APT.exists() == _DNF.exists():
        return f"{on_debian}; or {on_rpm}"
    return on_debian if _APT.exists() else on_rpm
