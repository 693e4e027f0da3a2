"""The choice of the accelerator, by measuring each one: that /dev/kvm can be opened proves nothing.

A host may offer /dev/kvm, create virtual machines and run their firmware, and yet emulate every 64-bit instruction in
software. So a payload without firmware or kernel enters 64-bit mode, counts, and writes a byte to the debug port every
`_REPORT` instructions; the rate of the first reports is the speed. It runs on the processor that machines will have.
"""

from __future__ import annotations

import enum
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.errors import HostError
from lifsea_testbed.qemu import processor
from lifsea_testbed.qemu.emulator import BINARY, Emulator
from lifsea_testbed.support import programs
from lifsea_testbed.support.confinement import Confinement, confined
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.host_limits import hint_for
from lifsea_testbed.support.host_packages import reinstall_hint
from lifsea_testbed.support.polling import wait_for_ready
from lifsea_testbed.support.private_dir import PrivateDirectory
from lifsea_testbed.support.sanitize import printable

#: Instructions between two reports: 65536 iterations of a loop of four (payload.S).
_REPORT = 4 * 65536
#: The number of reports after which measuring ends: KVM on real hardware sends them within 0.1 s, TCG within 0.4 s.
_ENOUGH = 1000
_SECONDS = 1.5
#: How long QEMU may take until its first report on a busy host (seconds), and how many times as long as TCG KVM may
#: take.
_STARTING, _NO_LONGER = 15.0, 3.0
#: Measuring ends so long after the first report (seconds) if the rate is below the required one.
_GLANCE = 0.3
#: KVM below this multiple of TCG's speed is itself emulated, and not used.
_WORTHWHILE = 2.0
#: The speeds of an ecs.g7 in the payload's unit (millions of instructions a second). One turn of its loop, four
#: instructions, takes one cycle at least, for each turn waits for the sum and the count of the one before; so no rate
#: exceeds four times the clock. The Xeon 8369B of an ecs.g7 is sold with a clock of 2.7 GHz, 3.5 GHz with all cores in
#: turbo (ECS documentation, g7): 14000 at most. Half of what 2.7 GHz allow is the least: each report leaves the guest,
#: which costs up to as much as its 65536 turns, 24 µs, where KVM itself runs in a virtual machine.
_LEAST_OF_G7, _MOST_OF_G7 = 4 * 2700 / 2, 4 * 3500
#: The factor for durations under emulation.
_EMULATED = 10.0
_KVM = Path("/dev/kvm")
# Relative to the working directory: the confined user may have no access to the directories above it.
_ROM = "payload.rom"
#: payload.S, assembled; a test assembles it again and compares.
_PAYLOAD = bytes.fromhex(
    "fa31c08ed88ec0bf0010b90018fcf3ab66c70600100320000066c70600200330000066c70600308300000066b8001000"
    "000f22d866b8200000000f22e066b9800000c00f32660d000100000f302e660f0116900066b8110000800f22c066ea65"
    "000f000800b9000001004801ca4889142500400000ffc975f1b02ee6e9ebe6900000000000000000ffff0000009baf00"
    "0f0080000f00"
)


class AcceleratorKind(enum.StrEnum):
    """The accelerators of QEMU that are measured."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A measured speed: millions of instructions a second (0.0 if none ran), seconds to the first, QEMU's last line.

    `cpu_model` is the processor that was measured.
    """

    rate: float
    last_line: str = ""
    after: float = 0.0
    cpu_model: str = processor.EMULATED


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """The chosen accelerator, the reason, and its measured speed in millions of instructions a second.

    `cpu_model` is the model of the machines' processors (qemu/processor.py).
    """

    kind: AcceleratorKind
    speed: float
    why: str
    cpu_model: str = processor.EMULATED

    @property
    def time_scale(self) -> float:
        """The factor by which durations on real hardware are scaled.

        Ten for TCG: the factor of other test tools for operating systems (tmt), and enough for the boots measured. One
        for KVM, unless it is slower than an ecs.g7: then as many times as it is, at most ten.
        """
        if self.kind is AcceleratorKind.TCG:
            return _EMULATED
        return min(_EMULATED, max(1.0, _LEAST_OF_G7 / self.speed))

    @property
    def other_pace(self) -> str:
        """Why the times of machines on this host are not those of an ecs.g7, with the measured rate; empty if they are.

        A faster host keeps a promise that an ecs.g7 breaks, and a slower one breaks one that it keeps.
        """
        if self.kind is AcceleratorKind.TCG:
            return f"emulated, at {self.speed:.0f} M instructions/s"
        if _LEAST_OF_G7 <= self.speed <= _MOST_OF_G7:
            return ""
        return f"KVM runs {self.speed:.1f} M instructions/s here, an ecs.g7 {_LEAST_OF_G7:.0f} to {_MOST_OF_G7} M"

    def confined(self) -> AbstractContextManager[Confinement]:
        """The confinement of a QEMU that uses this accelerator, with a user of its own until the context is left."""
        return confine(self.kind)

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.kind} ({self.why})"


def confine(kind: AcceleratorKind) -> AbstractContextManager[Confinement]:
    """The confinement of a QEMU that uses that accelerator, with a user of its own until the context is left."""
    return confined(_KVM if kind is AcceleratorKind.KVM else None)


def payload_rom() -> bytes:
    """Returns a 64 KiB firmware image: the payload, and the jump to it at the reset vector F000:FFF0."""
    return _PAYLOAD.ljust(0xFFF0, b"\xf4") + b"\xea\x00\x00\x00\xf0".ljust(16, b"\x00")


def choose(requested: str, emulator: Emulator) -> Accelerator:
    """Returns the accelerator for the option --accel (auto, kvm or tcg) after measuring.

    Raises:
        HostError: `kvm` was requested and cannot run 64-bit code at a useful speed, or QEMU executes nothing.
    """
    tcg = measure(AcceleratorKind.TCG, emulator)
    if tcg.rate == 0.0:
        why = f": {tcg.last_line}" if tcg.last_line else ""
        raise HostError(f"QEMU executes no code on this host, not even with TCG{why}",
                        hint=hint_for(tcg.last_line, reinstall_hint(BINARY)))
    if requested == AcceleratorKind.TCG:
        return decide(requested, kvm=Speed(rate=0.0), tcg=tcg)
    if not _KVM.exists():
        return decide(requested, kvm=Speed(rate=0.0, last_line="/dev/kvm does not exist"), tcg=tcg)
    within = max(_SECONDS, _NO_LONGER * tcg.after)
    return decide(requested, kvm=measure_kvm(emulator, least=tcg.rate, within=within), tcg=tcg)


def decide(requested: str, *, kvm: Speed, tcg: Speed) -> Accelerator:
    """Returns the accelerator that follows from the measured speeds.

    Raises:
        HostError: `kvm` was requested and is less than twice as fast as TCG.
    """
    if requested == AcceleratorKind.TCG:
        return Accelerator(kind=AcceleratorKind.TCG, speed=tcg.rate, why="requested")
    compared = f"KVM runs {kvm.rate:.1f} M instructions/s, TCG {tcg.rate:.0f} M"
    if kvm.rate >= _WORTHWHILE * tcg.rate:
        return Accelerator(kind=AcceleratorKind.KVM, speed=kvm.rate, why=compared, cpu_model=kvm.cpu_model)
    trouble = compared if kvm.rate or not kvm.last_line else kvm.last_line
    if requested == AcceleratorKind.KVM:
        raise HostError(f"KVM is not usable on this host: {trouble}", hint="--accel auto, or a host with hardware KVM")
    return Accelerator(kind=AcceleratorKind.TCG, speed=tcg.rate, why=f"KVM is not usable here: {trouble}")


def measure_kvm(emulator: Emulator, *, least: float, within: float) -> Speed:
    """Measures the first processor model that runs code under KVM, or the last one; `least` and `within` as below."""
    speed = Speed(rate=0.0)
    with confine(AcceleratorKind.KVM) as kvm:
        models = processor.candidates(emulator, kvm)
    for model in models:
        speed = measure(AcceleratorKind.KVM, emulator, cpu_model=model, least=least, within=within)
        if speed.rate:
            break
    return speed


def measure(kind: AcceleratorKind, emulator: Emulator, *, cpu_model: str = processor.EMULATED, least: float = 0.0,
            within: float = _STARTING) -> Speed:
    """Measures the speed of a 64-bit guest, which must send its first report within so many seconds.

    A guest slower than `least` (millions of instructions a second) is measured for 0.3 s only.
    """
    with PrivateDirectory() as directory, confine(kind) as confinement:
        directory.path.chmod(0o755)
        rom = directory.path / _ROM
        rom.write_bytes(payload_rom())
        rom.chmod(0o644)
        command = confinement.wrap(_command(kind, emulator, cpu_model), directory=directory.path)
        process = programs.start(command, directory=directory.path, stderr=programs.PIPE)
        try:
            assert process.stdout is not None
            rate, after = _rate(process.stdout.fileno(), least, within)
        finally:
            process.kill()
            _, stderr = process.communicate()
    return Speed(rate=rate, after=after, last_line=printable(stderr).strip().rpartition("\n")[2], cpu_model=cpu_model)


def _command(kind: AcceleratorKind, emulator: Emulator, cpu_model: str) -> list[str]:
    return [
        emulator.binary, "-nodefaults", "-no-user-config", "-machine", "pc", "-accel", kind, "-m", "16",
        "-cpu", processor.option(cpu_model),
        "-display", "none", "-bios", _ROM, "-chardev", "stdio,id=reports",
        "-device", "isa-debugcon,iobase=0xe9,chardev=reports",
    ]  # fmt: skip


def _rate(descriptor: int, least: float, within: float) -> tuple[float, float]:
    """Counts reports until there are enough, the rate is below the least, or time is up.

    Returns the rate, and the seconds until the first report.
    """
    began, deadline = time.monotonic(), Deadline.after(within)
    first, reports, rate, after = 0, 0, 0.0, 0.0
    while reports < _ENOUGH and wait_for_ready(deadline, descriptor):
        data = os.read(descriptor, 4096)
        if not data:
            break
        if not reports:
            first, after, deadline = len(data), time.monotonic() - began, Deadline.after(_SECONDS)
        reports += len(data)
        taken = time.monotonic() - began - after
        rate = (reports - first) * _REPORT / max(taken, 1e-6) / 1e6
        if taken > _GLANCE and rate < least:
            break
    return rate, after
