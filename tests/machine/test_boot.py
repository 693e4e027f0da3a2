"""A guest whose timer does not tick, or whose QEMU failed early, is powered on again; no other failure is retried."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.disk.image import examine
from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.ecs import instance_types
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import (
    BootFailed,
    ChannelError,
    CommandFailed,
    EmulatorFailed,
    Explained,
    GuestCrashed,
    LaunchError,
    MachineStarved,
    TimerLost,
    TimerStarved,
    WaitTimedOut,
)
from lifsea_testbed.machine import boot as boots
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.qemu import command_line, storage
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.emulator import BINARY, Emulator
from lifsea_testbed.support.confinement import confined
from lifsea_testbed.support.deadline import Deadline, TimeScale
from tests.support.boot_sector import raw_image


class Starving(Machine):
    """A machine whose power-ons end with these errors, until none is left."""

    def __init__(self, *ends: type[Explained], writes: bool = False, starved: bool = False) -> None:
        self.boots, self.closed, self._ends, self._writes, self._starved = [], 0, list(ends), writes, starved
        self._disks: Any = SimpleNamespace(put_back=lambda: None)

    def start(self) -> None:
        made: Any = SimpleNamespace(close=self._close, disk_is_untouched=not self._writes, is_starved=self._starved)
        self.boots.append(made)

    def _close(self) -> None:
        self.closed += 1

    def _await_shell(self) -> None:
        if self._ends:
            raise self._ends.pop(0)("it ended")


def test_a_starved_timer_is_tried_again() -> None:
    machine = Starving(TimerStarved, TimerStarved)
    machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 2)


def test_a_host_that_is_always_too_busy_is_an_error() -> None:
    machine = Starving(*[TimerStarved] * 3, starved=True)
    with pytest.raises(TimerStarved):
        machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 2)


@pytest.mark.parametrize(("ends", "error"), [
    ([TimerStarved] * 3, BootFailed), ([TimerLost, TimerStarved, TimerLost], BootFailed),
    ([TimerLost, TimerLost, EmulatorFailed], EmulatorFailed), ([MachineStarved] * 3, MachineStarved),
])  # fmt: skip
def test_a_timer_that_never_ticks_on_a_host_with_time_to_spare_is_the_guests(
    ends: list[type[Explained]], error: type[Explained]
) -> None:
    with pytest.raises(error) as caught:
        Starving(*ends).power_on()
    assert caught.type is error


@pytest.mark.parametrize("end", [EmulatorFailed, TimerStarved])
@pytest.mark.parametrize("writes", [False, True])
def test_a_failure_of_the_host_is_tried_again_unless_the_guest_had_written(end: type[Explained], writes: bool) -> None:
    machine = Starving(end, writes=writes)
    with pytest.raises(end) if writes else contextlib.nullcontext():
        machine.power_on()
    assert machine.closed == (0 if writes else 1)


@pytest.mark.parametrize("end", [GuestCrashed, LaunchError])
def test_any_other_end_is_final(end: type[Explained]) -> None:
    machine = Starving(end)
    with pytest.raises(end):
        machine.power_on()
    assert (len(machine.boots), machine.closed) == (1, 0)


class GoingDown(Machine):
    """A machine whose command to shut down ends in this way, and which is off afterwards or not."""

    def __init__(self, end: Explained | None, *, off: bool) -> None:
        made: Any = SimpleNamespace(
            liveness=SimpleNamespace(ended=False, expect_end=lambda: None), wait_until_off=lambda deadline: off,
            overdue=lambda happened, deadline: WaitTimedOut(happened))  # fmt: skip
        self.boots, self.boot_id, self._end, self._time_scale = [made], "", end, TimeScale()

    def run(self, *words: Any, **options: Any) -> Any:
        if self._end:
            raise self._end


@pytest.mark.parametrize("end", [None, LaunchError("the machine is off"), ChannelError("the shell exited")])
def test_a_guest_that_is_off_before_it_answers_was_powered_off(end: Explained | None) -> None:
    GoingDown(end, off=True).power_off()


@pytest.mark.parametrize(("end", "raised"), [
    (None, WaitTimedOut), (LaunchError("x"), LaunchError), (ChannelError("x"), ChannelError),
])  # fmt: skip
def test_a_guest_that_does_not_go_down_was_not_powered_off(end: Explained | None, raised: type[Explained]) -> None:
    with pytest.raises(raised):
        GoingDown(end, off=False).power_off()


@pytest.mark.parametrize("end", [GuestCrashed("panic"), CommandFailed("no such command")])
def test_a_fault_of_the_guest_on_its_way_down_is_a_failure(end: Explained) -> None:
    with pytest.raises(type(end)):
        GoingDown(end, off=True).power_off()


@contextlib.contextmanager
def boot_of(directory: Path) -> Iterator[dict[str, Any]]:
    """The arguments of a boot of a boot sector that halts."""
    hardware = command_line.HardwareSpec(
        emulator=Emulator(binary=BINARY, version="8.0"),
        accelerator=Accelerator(kind=AcceleratorKind.TCG, speed=1800.0, why="requested"),
        instance=Instance(type=instance_types.find("ecs.g7.large")), memory=64,
        image_format=DiskFormat.RAW, image_size=1 << 20,
    )  # fmt: skip
    disks = storage.HeldDisks(directory / "overlay.qcow2", directory / "data.raw", image_size=1 << 20, data_disk=0)
    with confined() as confinement, contextlib.closing(disks):
        yield {"hardware": hardware, "image": examine(raw_image(directory / "disk.raw", "up\n")), "disks": disks,
               "directory": directory, "transcript": directory / "transcript.txt",
               "confinement": confinement}  # fmt: skip


def resources() -> tuple[int, int]:
    """How many descriptors this process has open, and how many threads it runs."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.boots
@pytest.mark.parametrize("failing", ["command", "descriptors", "process", "monitor", "wrong option"])
def test_a_start_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError(24, "Too many open files")

    tmp_path.chmod(0o755)
    with boot_of(tmp_path) as arguments:
        first = Boot(**arguments)
        first.start()
        first.close()
        before = resources()
        match failing:
            case "command":
                monkeypatch.setattr(command_line, "command", fail)
            case "descriptors":
                monkeypatch.setattr(arguments["disks"].overlay, "open", fail)
            case "process":
                monkeypatch.setattr(boots, "QemuProcess", fail)
            case "monitor":
                monkeypatch.setattr(boots, "Monitor", fail)
            case _:
                arguments["confinement"] = SimpleNamespace(wrap=lambda command, **options: ["/no/such/program"])
        with pytest.raises((OSError, LaunchError)):
            Boot(**arguments)
        assert resources() == before


@pytest.mark.boots
def test_a_qemu_that_fails_while_the_guest_shuts_down_is_no_power_off(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with boot_of(tmp_path) as arguments:
        boot = Boot(**arguments)
        boot.start()
        boot.liveness.expect_end()
        os.kill(boot.process.pid, signal.SIGSEGV)
        with pytest.raises(EmulatorFailed):
            boot.wait_until_off(Deadline.after(30.0))
        boot.close()
        boot.close()
