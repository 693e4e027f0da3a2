"""Marks and phases: the moments of a boot, in seconds after power-on, and what lies between them."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lifsea_testbed.qemu.instruction_counter import BOOT_SECTOR, Stamp
from lifsea_testbed.support.protocols import ConsoleLine


class Mark(enum.StrEnum):
    """The moments of a boot, in the order in which they usually come; docs/boot-time.md defines each."""

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


#: The moments that cut a boot into phases, and the name of the phase that each of them ends. The last one is what an
#: advertised boot time is held against.
PHASES = {
    Mark.BOOT_LOADER: "firmware",
    Mark.KERNEL: "boot-loader",
    Mark.INIT: "kernel",
    Mark.SYSTEMD: "init",
    Mark.USER_DATA: "user-space",
}
END = Mark.USER_DATA
_KERNEL = re.compile(r"\[ +\d+\.\d{6}\] ")
_INIT = re.compile(r"Run \S+ as init process")
_SYSTEMD = re.compile(r"systemd\[1\]: ")
#: What ttyS0 says at a mark, byte by byte.
_SAID = {
    Mark.KERNEL: rb"\[ +0\.\d{6}\] Linux version",
    Mark.INIT: rb"Run \S+ as init process",
    Mark.SYSTEMD: rb"systemd\[1\]: ",
}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What lies between two marks: from when, until when (seconds after power-on)."""

    name: str
    start: float
    end: float

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


def phases(marks: Mapping[Mark, float]) -> list[Phase]:
    """Returns the phases of a boot in order; their durations add up to the time of the last mark.

    Where a mark was not seen, the phase that it ends is part of the next one, which keeps its own name.
    """
    found, before = list[Phase](), 0.0
    for mark, name in PHASES.items():
        if mark in marks:
            found.append(Phase(name=name, start=before, end=marks[mark]))
            before = marks[mark]
    return found


def on_console(lines: Sequence[ConsoleLine]) -> dict[Mark, float]:
    """Returns the marks that the lines of a console tell of.

    A kernel's first line may be the end of one that the boot loader began, so its second line tells, which the kernel
    writes right behind it.
    """
    kernels = [line for line in lines if _KERNEL.search(line.text)]
    inits = [line for line in kernels if _INIT.search(line.text)]
    systemds = [line for line in lines if _SYSTEMD.search(line.text)]
    told = ((Mark.FIRST_BYTE, lines[:1]), (Mark.KERNEL, kernels[1:2]), (Mark.INIT, inits[:1]),
            (Mark.SYSTEMD, systemds[:1]))  # fmt: skip
    return {mark: line.at for mark, found in told for line in found}


def in_record(stamps: Iterable[Stamp]) -> dict[Mark, Stamp]:
    """Returns the marks that a counter saw: to the instruction, and on the processor's own time."""
    sector, stamps_of_bytes = list[Stamp](), list[Stamp]()
    for stamp in stamps:
        (sector if stamp.value == BOOT_SECTOR else stamps_of_bytes).append(stamp)
    said = bytes(stamp.value for stamp in stamps_of_bytes)
    told = ((Mark.BOOT_LOADER, sector[:1]), (Mark.FIRST_BYTE, stamps_of_bytes[:1]))
    marks = {mark: stamp for mark, found in told for stamp in found}
    for mark, pattern in _SAID.items():
        if found := re.search(pattern, said):
            marks[mark] = stamps_of_bytes[found.start()]
    return marks
