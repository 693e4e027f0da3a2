"""The QEMU that is installed: where it is, its version, and the machine types it knows."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from lifsea_testbed.errors import HostError
from lifsea_testbed.qemu.process import describe_exit
from lifsea_testbed.support.host_packages import install_hint, reinstall_hint

BINARY = "qemu-system-x86_64"
#: i440FX as QEMU has it now. DMI shows an ECS guest `pc-i440fx-2.1`, and argv says so; that type itself
#: is not used: QEMU drops types after about six years, and one before 2.8 hides the CPU leaves that `-cpu max` needs
#: (full-cpuid-auto-level=off), so that a 64-bit kernel hangs before its first line.
MACHINE_TYPE = "pc"
#: What QEMU is run with: overlays, the guest's connections to services, confinement.
_TOOLS = (BINARY, "qemu-img", "socat", "setpriv")


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """An installed QEMU: the path of its binary, and its version."""

    binary: str
    version: str

    @property
    def threads_are_sound(self) -> bool:
        """Whether TCG may run each virtual CPU on a thread of its own.

        Before 8.1 one CPU could go on with code that another had patched meanwhile, and a Linux guest then dies of its
        own breakpoint, `int3: 0000`, about once in ten boots (QEMU commit "accel/tcg: Always lock pages before
        translation"; seen here with 7.2.22).
        """
        return self._is_at_least(8, 1)

    @property
    def can_restore(self) -> bool:
        """Whether it maps a file that it cannot write as memory that a guest can (`rom=off`: QEMU 8.2)."""
        return self._is_at_least(8, 2)

    def _is_at_least(self, major: int, minor: int) -> bool:
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (major, minor)


def find() -> Emulator:
    """Returns the QEMU on PATH.

    Raises:
        HostError: it, or a tool that it is run with, is not installed.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise HostError(f"{', '.join(missing)} not found on PATH", hint=install_hint(*missing))
    binary = shutil.which(BINARY) or BINARY
    version = re.search(r"version (\S+)", _output(binary, "--version"))
    return Emulator(binary=binary, version=version[1] if version else "unknown")


def _output(binary: str, *arguments: str) -> str:
    ended = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False, timeout=30)
    if ended.returncode:
        raise HostError(f"{binary} {' '.join(arguments)} {describe_exit(ended.returncode)}", evidence=ended.stderr,
                        hint=reinstall_hint(BINARY))
    return ended.stdout
