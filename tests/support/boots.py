"""Made-up observations of boots, for the tests of reports and judges."""

from __future__ import annotations

from lifsea_testbed.boottime.marks import BootMark
from lifsea_testbed.boottime.observation import BootNumber, Observation, Progress
from lifsea_testbed.guest.boot import UnitTimes
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.instruction_counter import Counts

#: KVM as fast as on an ecs.g7, and emulation.
KVM = Accelerator(kind=AcceleratorKind.KVM, speed=9000.0, why="measured", cpu_model="Icelake-Server-v6")
TCG = Accelerator(kind=AcceleratorKind.TCG, speed=1800.0, why="measured")
TIMES = {BootMark.POWER_ON: 0.0, BootMark.BOOT_LOADER: 0.25, BootMark.FIRST_BYTE: 0.5, BootMark.KERNEL: 1.0,
         BootMark.INIT: 1.5, BootMark.SYSTEMD: 1.75, BootMark.USER_DATA: 4.0, BootMark.FINISHED: 5.0}  # fmt: skip


def progress(at: float, rate: float = 1e9, idle: float = 0.0) -> Progress:
    work = round(at * rate)
    return Progress(at=at, counts=Counts(user=work // 2, kernel=work - work // 2), idle=idle)


def boot(*, image: str = "old.qcow2", took: float = 4.0, rate: float = 1e9, idle: float = 0.0, counted: bool = True,
         programs: dict[str, int] | None = None, units: list[UnitTimes] | None = None) -> Observation:
    """A first boot that reached user-data after `took` seconds at `rate` instructions a second."""
    times = {mark: at * took / TIMES[BootMark.USER_DATA] for mark, at in TIMES.items()}
    made = {mark: progress(at, rate, idle) for mark, at in times.items()}
    return Observation(
        image=image, which=BootNumber.FIRST, error=0.001, marks=times, progress=made if counted else {},
        curve=[progress(at / 10, rate) for at in range(51)] if counted else [], programs=programs or {},
        units=units or [],
    )  # fmt: skip


def unit(name: str, processor: float) -> UnitTimes:
    return UnitTimes(name=name, started=2.0, active=2.0 + processor, processor=processor)
