"""Whose fault a guest is that gave up or is silent: the host's only where a measurement shows it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from lifsea_testbed.errors import BootFailed, Explained, GuestCrashed, MachineStarved, TimerLost, TimerStarved
from lifsea_testbed.machine import diagnosis
from lifsea_testbed.machine import machine as machines
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.qemu.processor_share import ProcessorSample, WithheldTime
from tests.support.boot_sector import boot_sector
from tests.support.quick import skip_if_busy

#: Behind the text: halts with interrupts enabled, all of them masked; halts with interrupts disabled; runs for ever.
PRINT = "fa 31c0 8ed8 be{text:02x}7c ac 84c0 7406 baf803 ee ebf5"
WAITS, STOPPED, RUNS = "b0ff e621 e6a1 fb f4 ebfd", "f4 ebfd", "ebfe"
LOCK_UP = "[   30.000001] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n"
STALL = "[   41.947468] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n"
PROFILE = """
extends = "reference"
name = "kernel"
claims = ["boots-to-ready"]
[access]
methods = ["none"]
[boot]
ready_line = "never printed"
shell_within = {within}
"""


def end(place: Path, text: str, then: str, within: float = 60.0) -> Explained:
    """The end of a power-on of a guest that prints a text, then does that; it has so many seconds to come up."""
    size = 19 + len(bytes.fromhex(then))
    code = bytes.fromhex(PRINT.format(text=size) + then)
    (place / "disk.raw").write_bytes(boot_sector(text, code).ljust(1 << 20, b"\0"))
    (place / "kernel.toml").write_text(PROFILE.format(within=within))
    context = run_context(image=str(place / "disk.raw"), profile=str(place / "kernel.toml"),
                          instance_type="ecs.g7.large", accelerator="tcg", reports=place)  # fmt: skip
    with contextlib.closing(MachineFactory(context)) as factory, pytest.raises(Explained) as caught, \
            factory.create(MachineSpec(name="guest")):  # fmt: skip
        pass
    return caught.value


def crowded(samples: list[ProcessorSample], within: float) -> WithheldTime:
    return WithheldTime(seconds=0.9 * within, ran=1.0, within=within)


def idle(samples: list[ProcessorSample], within: float) -> WithheldTime:
    return WithheldTime(seconds=0.0, ran=0.1, within=within)


@pytest.mark.parametrize(("measured", "error"), [(crowded, MachineStarved), (idle, GuestCrashed)])
def test_a_lock_up_is_the_hosts_fault_only_where_it_withheld_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: object, error: type[Explained]
) -> None:
    monkeypatch.setattr(diagnosis, "withheld", measured)
    found = end(tmp_path, LOCK_UP, STOPPED)
    assert type(found) is error and "soft lock-up" in found.happened
    assert "withheld the processor" in found.evidence and "CPU#0" in found.evidence


def test_a_guest_that_prints_the_words_is_measured_on_the_real_host(tmp_path: Path) -> None:
    """Its QEMU is some seconds old: no host can have withheld a third of 22 s from it by then."""
    assert type(end(tmp_path, LOCK_UP, STOPPED)) is GuestCrashed


@pytest.mark.parametrize(("line", "ran", "stood", "error"), [
    (STALL, 0.9, 19.0, TimerStarved),
    ("[   48.0] rcu: rcu_preempt kthread timer wakeup didn't happen for 5252 jiffies!\n", 0.9, 19.0, TimerStarved),
    (STALL, 0.9, 12.0, GuestCrashed),  # it ran within the time of the stall
    (STALL, 19.0, 19.0, GuestCrashed),  # another CPU was stuck
    (LOCK_UP, 0.9, 19.0, GuestCrashed),  # that CPU executes what it is stuck in
    ("[   48.0] INFO: task a:1 blocked for more than 120 seconds.\n", 0.9, 119.0, GuestCrashed),
])  # fmt: skip
def test_a_stall_is_the_emulators_fault_only_where_a_cpu_was_not_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, ran: float, stood: float, error: type[Explained]
) -> None:
    monkeypatch.setattr(diagnosis, "withheld",
                        lambda samples, within: WithheldTime(seconds=0.0, ran=ran, within=within))
    monkeypatch.setattr(diagnosis, "stood_for", lambda samples, threads: stood if len(threads) == 2 else 0.0)
    found = end(tmp_path, line, STOPPED)
    if error is TimerStarved:  # at each attempt: a guest that says so every time is at fault
        assert type(found) is BootFailed and "for want of a timer" in found.happened
        assert "a virtual CPU executed nothing for 19 s" in found.evidence
    else:
        assert type(found) is error


@pytest.mark.parametrize(("text", "then", "error"), [
    ("[    1.000000] virtio_blk virtio2: [vda]\n", WAITS, TimerLost),
    ("[    1.000000] reboot: System halted\n", STOPPED, BootFailed),
    ("[    1.000000] virtio_blk virtio2: [vda]\n", RUNS, BootFailed),
    ("a boot loader that waits for a key\n", WAITS, BootFailed),
])  # fmt: skip
def test_only_a_kernel_that_waits_for_a_timer_in_vain_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, then: str, error: type[Explained]
) -> None:
    monkeypatch.setattr(diagnosis, "_LOST", 2.0)
    monkeypatch.setattr(machines, "_POWER_ONS", 1)
    found = end(tmp_path, text, then, within=0.9)
    skip_if_busy(found)
    assert type(found) is error, found
    assert error is not TimerLost or "executed anything for" in found.happened


@pytest.mark.parametrize(("registers", "waits"), [
    ("CPU#0\nRAX=1\nRIP=ffff RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\nES =0\n", True),
    ("CPU#0\nEIP=0 EFL=00000246 [-] II=0 HLT=1\nCPU#1\nEIP=0 EFL=00000046 [-] II=0 HLT=1\n", True),
    ("CPU#0\nEIP=0 EFL=00000246 [-] II=0 HLT=1\nCPU#1\nEIP=0 EFL=00000246 [-] II=0 HLT=0\n", False),
    ("CPU#0\nEIP=0 EFL=00000046 [-] II=0 HLT=1\n", False), ("", False), ("unknown command\n", False),
])  # fmt: skip
def test_registers_show_whether_a_guest_waits(registers: str, waits: bool) -> None:
    assert diagnosis.waits_for_interrupt(registers) is waits


@pytest.mark.parametrize(("timer", "armed"), [
    ("LVTT 0xec active-hi edge one-shot\nTimer DCR=0x3 initial_count = 19730312 current_count = 3559733\n", True),
    ("LVTT 0xec active-hi edge one-shot\nTimer DCR=0x3 initial_count = 19730312 current_count = 0\n", False),
    ("LVTT 0xec active-hi edge tsc-deadline\nTimer DCR=0x3 initial_count = 0 current_count = 0\n", True), ("", False),
])  # fmt: skip
def test_a_timer_that_is_armed_will_wake_a_guest(timer: str, armed: bool) -> None:
    assert diagnosis.timer_is_armed(timer) is armed


#: Resets the machine by the keyboard controller.
RESETS = "b0fe e664 ebfe"


@pytest.mark.parametrize(("text", "cause"), [
    ("[  !!  ] Rebooting: unit healthy.service failed\n",
     ": its console says: Rebooting: unit healthy.service failed"),
    ("[FAILED] Failed to start Health check.\n", " after: Failed to start Health check."),
    ("all is well\n", ""),
])  # fmt: skip
def test_a_guest_that_resets_by_itself_is_told_with_the_cause_that_its_console_names(
    tmp_path: Path, text: str, cause: str
) -> None:
    found = end(tmp_path, text, RESETS)
    skip_if_busy(found)
    assert isinstance(found, GuestCrashed), found
    assert found.happened == f"the guest went down by itself (guest-reset){cause}"


def test_the_last_action_of_systemd_is_the_cause() -> None:
    console = ("[FAILED] Failed to start Other.\nsystemd[1]: Forcibly rebooting: job timed out\n"
               "[   12.345678] systemd[1]: Powering off immediately: unit a.service failed")  # fmt: skip
    assert diagnosis.went_down("guest-shutdown", console).happened.endswith(
        "(guest-shutdown): its console says: Powering off immediately: unit a.service failed")
