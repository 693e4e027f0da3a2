"""The QEMU that is installed: where it is, its version, and the machine types it knows."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from lifsea_testbed.errors import HostError

BINARY = "qemu-system-x86_64"
#: What DMI shows of an ECS guest; QEMU drops versioned types after about six years, then its successor serves.
_MACHINE_TYPES = ("pc-i440fx-2.1", "pc")
_TOOLS = {BINARY: "qemu-system-x86", "qemu-img": "qemu-utils", "socat": "socat", "setpriv": "util-linux"}


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """An installed QEMU: the path of its binary, its version, and the machine type nearest to an ECS guest."""

    binary: str
    version: str
    machine_type: str


def find() -> Emulator:
    """Returns the QEMU on PATH.

    Raises:
        HostError: it, or a tool that it is run with, is not installed.
    """
    missing = [(tool, package) for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise HostError(
            f"{', '.join(tool for tool, _ in missing)} not found on PATH",
            hint=f"apt-get install {' '.join(package for _, package in missing)}",
        )
    binary = shutil.which(BINARY) or BINARY
    version = re.search(r"version (\S+)", _ask(binary, "--version"))
    return Emulator(
        binary=binary,
        version=version[1] if version else "unknown",
        machine_type=nearest_machine_type(_ask(binary, "-machine", "help")),
    )


def nearest_machine_type(machine_help: str) -> str:
    """Returns the first type of our list that `-machine help` names."""
    known = {line.split()[0] for line in machine_help.splitlines() if line.strip()}
    return next((name for name in _MACHINE_TYPES if name in known), "pc")


def _ask(binary: str, *arguments: str) -> str:
    answer = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False, timeout=30)
    if answer.returncode:
        raise HostError(f"{binary} {arguments[0]} failed", evidence=answer.stderr, hint="reinstall qemu-system-x86")
    return answer.stdout
