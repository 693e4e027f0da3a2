"""Guests that are up within a second, on either accelerator: a boot sector that says so, judged without a shell."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.disk.image import examine
from lifsea_testbed.ecs import instance_types
from lifsea_testbed.errors import Explained, MachineStarved, TimerLost
from lifsea_testbed.machine.context import RunContext
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.qemu import accelerator, emulator
from lifsea_testbed.qemu import firmware as firmwares
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.support import private_dir
from lifsea_testbed.support.firmware import Firmware
from tests.support.boot_sector import raw_image

#: For tests of what only KVM does: guests of some instructions run even where KVM is emulated in software.
needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm cannot be opened")


def skip_if_busy(error: Explained) -> None:
    """Skips a test whose guest waited for other programs of this host, which runs more than it has processors."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if isinstance(error, MachineStarved) and not isinstance(error, TimerLost) and load > processors:
        pytest.skip(f"the host is busy (load {load}): {error.happened}")


PROFILE = """
extends = "reference"
name = "quick"
claims = ["boots-to-ready", "no-sshd", "no-python", "shell-kept"]
[access]
methods = ["none"]
[boot]
ready_line = "up and running"
shell_within = 6
"""


def lay_out(place: Path, suite: str, **files: str) -> list[str]:
    """Writes image, profile and suite, and returns the options of a run on them; it writes to that directory alone."""
    raw_image(place / "disk.raw", "up and running\n")
    (place / "quick.toml").write_text(PROFILE)
    (place / "test_suite.py").write_text(suite)
    for name, text in files.items():
        (place / f"{name}.py").write_text(text)
    (place / "tmp").mkdir(exist_ok=True)
    return ["--image", "disk.raw", "--profile", "quick.toml", "--accel", "tcg", "-p", "no:cacheprovider"]


@functools.cache
def measured(kind: AcceleratorKind) -> Accelerator:
    """That accelerator of this host, with the processor that it runs, however slow."""
    installed = emulator.find()
    speed = accelerator.measure(kind, installed, least=1e9) if kind is AcceleratorKind.TCG else \
        accelerator.measure_kvm(installed, least=1e9, within=15.0)  # fmt: skip
    return Accelerator(kind=kind, speed=speed.rate, why="requested", cpu_model=speed.cpu_model)


@contextlib.contextmanager
def factory(disk: Path, accelerator: Accelerator, *,
            instance_type: str = instance_types.DEFAULT,
            firmware: Firmware = Firmware.BIOS) -> Iterator[MachineFactory]:  # fmt: skip
    """A factory of machines with 64 MiB, 128 by UEFI, that boot that disk: it is up when it says `up and running`."""
    profile = disk.with_name("quick.toml")
    profile.write_text(PROFILE)
    installed = emulator.find()
    context = RunContext(
        image=examine(disk), profile=str(profile), instance_type=instance_types.find(instance_type),
        accelerator_option=str(accelerator.kind), accelerator=accelerator, emulator=installed,
        memory=128 if firmware.is_uefi else 64, firmware=firmware,
        firmware_files=firmwares.find(firmware, installed.board(firmware)),
        scratch=private_dir.places()[0], reports=disk.parent / "reports",
    )  # fmt: skip
    with contextlib.closing(MachineFactory(context)) as made:
        yield made
