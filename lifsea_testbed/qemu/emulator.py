"""The installed QEMU: its path, its version, and what follows from it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

from lifsea_testbed.errors import HostError
from lifsea_testbed.qemu.process import describe_exit
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.support.host_limits import hint_for
from lifsea_testbed.support.host_packages import install_hint, reinstall_hint
from lifsea_testbed.support.programs import run_tool

BINARY = "qemu-system-x86_64"
#: The current i440FX. An ECS guest sees `pc-i440fx-2.1` in DMI, which the command line sets; that machine type itself
#: is not used: QEMU removes types after about six years, and those before 2.8 hide the CPU leaves that `-cpu max` needs
#: (full-cpuid-auto-level=off), so that a 64-bit kernel hangs before its first line.
MACHINE_TYPE = "pc"
#: The board of Secure Boot: edk2 keeps its keys from the guest by SMM, which it supports on no i440FX (edk2,
#: OvmfPkg/README, "SMM support").
SECURE_MACHINE_TYPE = "q35"
#: The oldest QEMU with all that the command line uses: that of Debian 12.
_OLDEST = (7, 2)
#: What QEMU is run with: overlays, the guest's connections to services, confinement.
_TOOLS = (BINARY, "qemu-img", "socat", "setpriv", "prlimit")


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """An installed QEMU: the path of its binary, and its version."""

    binary: str
    version: str

    @property
    def threads_are_sound(self) -> bool:
        """Whether TCG may run each virtual CPU on a thread of its own.

        Before 8.1 a CPU could execute a stale translation of code that another CPU had patched, and a Linux guest then
        crashes at its own breakpoint, `int3: 0000`, about once in ten boots (QEMU commit "accel/tcg: Always lock pages
        before translation"; observed with 7.2.22).
        """
        return self._is_at_least(8, 1)

    def board(self, firmware: Firmware) -> str:
        """Returns the versioned name of the board of machines with that firmware, as firmware descriptors have it."""
        name = "pc-q35" if firmware is Firmware.UEFI_SECURE else "pc-i440fx"
        return f"{name}-{'.'.join(self.version.split('.')[:2])}"

    @property
    def can_restore(self) -> bool:
        """Whether it can map a read-only file as writable guest memory (`rom=off`: QEMU 8.2)."""
        return self._is_at_least(8, 2)

    def _is_at_least(self, major: int, minor: int) -> bool:
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (major, minor)


def find() -> Emulator:
    """Returns the QEMU on PATH.

    Raises:
        HostError: it is not installed, is too old, or does not answer, or a tool that it needs is not installed.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise HostError(f"{', '.join(missing)} not found on PATH", hint=install_hint(*missing))
    binary = shutil.which(BINARY) or BINARY
    version = re.search(r"version (\S+)", _output(binary, "--version"))
    found = Emulator(binary=binary, version=version[1] if version else "unknown")
    if version and not found._is_at_least(*_OLDEST):
        raise HostError(f"{binary} is of version {found.version}, which is too old",
                        expected=f"{'.'.join(map(str, _OLDEST))} or later", hint=install_hint(BINARY))
    return found


def _output(binary: str, *arguments: str) -> str:
    ended = run_tool([binary, *arguments], within=30.0)
    if ended.returncode:
        raise HostError(f"{binary} {' '.join(arguments)} {describe_exit(ended.returncode)}", evidence=ended.stderr,
                        hint=hint_for(ended.stderr, reinstall_hint(BINARY)))
    return ended.stdout
