"""Marks and phases: the moments of a boot, in seconds after power-on, and the intervals between them."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lifsea_testbed.qemu.instruction_counter import BOOT_SECTOR, Stamp
from lifsea_testbed.support.protocols import ConsoleLine


class BootMark(enum.StrEnum):
    """The moments of a boot, in their usual order; docs/boot-time.md defines each."""

    POWER_ON = "power-on"
    BOOT_LOADER = "boot loader"
    FIRST_BYTE = "first byte"
    KERNEL = "kernel"
    INIT = "init"
    SYSTEMD = "systemd"
    USER_DATA = "user-data"
    TARGET = "target"
    ASSISTANT = "assistant"
    CONTAINERD = "containerd"
    FINISHED = "finished"
    QUIET = "quiet"
    KUBELET = "kubelet"


#: The marks that divide a boot into phases, with the name of the phase that each of them ends. An advertised boot time
#: is compared with the last one.
PHASES = {
    BootMark.BOOT_LOADER: "firmware",
    BootMark.KERNEL: "boot-loader",
    BootMark.INIT: "kernel",
    BootMark.SYSTEMD: "init",
    BootMark.USER_DATA: "user-space",
}
END = BootMark.USER_DATA
_KERNEL = re.compile(r"\[ +\d+\.\d{6}\] ")
_INIT = re.compile(r"Run \S+ as init process")
_SYSTEMD = re.compile(r"systemd\[1\]: ")
#: What UEFI prints when it hands over to a boot loader (edk2, UefiBootManagerLib; OvmfPkg prints it on ttyS0).
_LOADER = re.compile(r"BdsDxe: starting Boot[0-9A-F]{4}")
#: The output on ttyS0 at a mark (regular expressions over bytes).
_ON_SERIAL = {
    BootMark.BOOT_LOADER: rb"BdsDxe: starting Boot[0-9A-F]{4}",
    BootMark.KERNEL: rb"\[ +0\.\d{6}\] Linux version",
    BootMark.INIT: rb"Run \S+ as init process",
    BootMark.SYSTEMD: rb"systemd\[1\]: ",
}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The interval between two marks (seconds after power-on)."""

    name: str
    start: float
    end: float

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


def phases(marks: Mapping[BootMark, float]) -> list[Phase]:
    """Returns the phases of a boot in order; their durations add up to the time of the last mark.

    Where a mark was not seen, the phase that it ends is part of the next one, which keeps its own name.
    """
    found, before = list[Phase](), 0.0
    for mark, name in PHASES.items():
        if mark in marks:
            found.append(Phase(name=name, start=before, end=marks[mark]))
            before = marks[mark]
    return found


def from_console(lines: Sequence[ConsoleLine]) -> dict[BootMark, float]:
    """Returns the marks found in the lines of a console.

    The kernel's mark is taken from its second line, which follows at once: its first one may be the end of a line that
    the boot loader began. UEFI names each boot loader that it starts: the last one came up.
    """
    loaders = [line for line in lines if _LOADER.search(line.text)]
    kernels = [line for line in lines if _KERNEL.search(line.text)]
    inits = [line for line in kernels if _INIT.search(line.text)]
    systemds = [line for line in lines if _SYSTEMD.search(line.text)]
    found = ((BootMark.BOOT_LOADER, loaders[-1:]), (BootMark.FIRST_BYTE, lines[:1]), (BootMark.KERNEL, kernels[1:2]),
             (BootMark.INIT, inits[:1]), (BootMark.SYSTEMD, systemds[:1]))  # fmt: skip
    return {mark: line.at for mark, matches in found for line in matches}


def from_record(stamps: Iterable[Stamp]) -> dict[BootMark, Stamp]:
    """Returns the marks in a counter's record, each exact to the instruction."""
    sector, stamps_of_bytes = list[Stamp](), list[Stamp]()
    for stamp in stamps:
        (sector if stamp.value == BOOT_SECTOR else stamps_of_bytes).append(stamp)
    output = bytes(stamp.value for stamp in stamps_of_bytes)
    first = ((BootMark.BOOT_LOADER, sector[:1]), (BootMark.FIRST_BYTE, stamps_of_bytes[:1]))
    marks = {mark: stamp for mark, found in first for stamp in found}
    for mark, pattern in _ON_SERIAL.items():
        if places := [found.start() for found in re.finditer(pattern, output)]:
            marks[mark] = stamps_of_bytes[places[-1 if mark is BootMark.BOOT_LOADER else 0]]
    return marks
