"""Whose fault it is that a guest gave up or does not answer: what the host and QEMU show of it.

A fatal line that a busy host can cause is the host's fault if the host withheld the processor from QEMU for long
enough before it (`qemu.processor_share`). A guest that does not answer is not at fault if QEMU is stopped, hangs or
lacks the processor, or does not run it for a reason that no guest can bring about, or if the emulator lost its timer:
then every virtual CPU has halted, with interrupts enabled as in the idle loop of a kernel, has no timer that will wake
it, and executes nothing for half a minute. Measured: a kernel all of whose processes are stopped has a timer armed, and
works for 1 to 3 ms a second. It may lose the timer of one CPU alone: then a kernel reports a stall of RCU, the thread
of that CPU executed nothing for as long, and no other was stuck. A guest whose CPUs all halted with interrupts disabled
stopped by itself. KVM has the timers of its guests in the host's kernel, which loses none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.console.fatal_lines import Suspicion
from lifsea_testbed.console.transcript import Measured, Transcript
from lifsea_testbed.errors import (
    BootFailed,
    DiskDamaged,
    Explained,
    GuestCrashed,
    HostError,
    MachineStarved,
    TestbedError,
    TimerLost,
    TimerStarved,
)
from lifsea_testbed.qemu.process import QemuProcess
from lifsea_testbed.qemu.processor_share import idle_for, stood_for, withheld
from lifsea_testbed.qemu.qmp import Monitor
from lifsea_testbed.support.deadline import Deadline

#: How long QEMU may take to return its status and the registers (seconds).
_STATUS = 2.0
#: A kernel that executed nothing for so long (seconds) has lost its timer: the watchdog of Linux alone wakes each CPU
#: every 4 s (kernel/watchdog.c, set_sample_period).
_LOST = 30.0
#: A CPU in the output of `info registers -a` (QEMU, target/i386/cpu-dump.c), and the flag IF of its EFLAGS.
_CPU = re.compile(r"\b[ER]FL=([0-9a-f]+) .*?\bHLT=([01])", re.DOTALL)
_INTERRUPTS_ENABLED = 1 << 9
_EMULATION = "a fault of QEMU's emulation: try again, another version of it, or KVM"
#: printk's time stamp: a kernel has started.
_KERNEL = re.compile(r"\[ *\d+\.\d{6}\] ")
#: How many lines of the console are searched for it.
_LINES = 500
#: The states of QEMU that a guest brings about itself (qapi/run-state.json, RunState), and what it did.
_BY_THE_GUEST = {
    "suspended": "suspended itself (ACPI S3)", "shutdown": "shut down", "guest-panicked": "reported a panic",
    "watchdog": "let its watchdog expire", "internal-error": "made KVM unable to run its processor any more",
}  # fmt: skip
#: What systemd prints when it reboots or powers off by itself (src/core/emergency-action.c, since 229), and for a unit
#: that failed.
_ACTION = re.compile(r"((?:Forcibly )?(?:rebooting|powering off)(?: immediately)?: .+)", re.IGNORECASE)
_UNIT_FAILED = re.compile(r"\[FAILED\] (Failed to (?:start|mount) .+)")
#: The share of the time for which QEMU is silent that it used a processor; states of a process that cannot use one:
#: stopped, or waiting for the host's disk (proc(5)).
_USED, _HELD = 0.1, "TtD"
#: The share of a time for which QEMU runs, at least, if a virtual CPU is stuck in it.
_BUSY = 0.5
#: The time for which a machine that starves is measured (seconds).
_RECENT = 60.0
#: How much is read at once of a disk that failed (bytes), and how long reading may take (seconds).
_CHUNK, _READING = 1 << 20, 60.0


@dataclass(frozen=True, kw_only=True)
class _Processors:
    """The virtual CPUs: the threads that execute them, their registers and timers, as QEMU's monitor shows them."""

    threads: tuple[int, ...]
    registers: str
    timers: tuple[str, ...]

    @property
    def wait_in_vain(self) -> bool:
        """Whether all have halted, and none has a timer that will wake it."""
        return waits_for_interrupt(self.registers) and not any(map(timer_is_armed, self.timers))


def measured(monitor: Monitor, process: QemuProcess, suspicion: Suspicion, *, emulated: bool) -> Measured:
    """Returns whether the host is at fault for a fatal line.

    It is if it withheld the processor from QEMU for as long as the line takes. It is, too, if the line says that a
    timer did not fire, and meanwhile no virtual CPU was busy, and one, which had to be woken, executed nothing.
    """
    samples = process.share.samples()
    found = withheld(samples, suspicion.within)
    if found.seconds >= suspicion.withheld:
        return Measured(host_is_at_fault=True, text=str(found),
                        hint="start fewer machines at once, or use a faster host")  # fmt: skip
    was_idle = emulated and suspicion.idle and found.ran < _BUSY * suspicion.within
    if was_idle and (stood := stood_for(samples, _threads(monitor, process))) >= suspicion.idle:
        return Measured(host_is_at_fault=True, hint=_EMULATION,
                        text=f"the emulator lost a timer: a virtual CPU executed nothing for {stood:.0f} s; {found}")
    return Measured(text=f"the host is not at fault: {found}")


def _threads(monitor: Monitor, process: QemuProcess) -> set[int]:
    """The threads that execute the virtual CPUs, by their numbers on the host; none if QEMU does not answer."""
    try:
        cpus = monitor.execute("query-cpus-fast", deadline=Deadline.after(_STATUS))
    except TestbedError:
        return set()
    return process.threads_on_host([int(cpu["thread-id"]) for cpu in cpus])


def silence(monitor: Monitor, process: QemuProcess, transcript: Transcript, *, emulated: bool,
            waited: float) -> Explained | None:
    """Returns why a guest did nothing for so long (s) if that is not its own fault, or QEMU does not run it.

    The host is at fault if it withheld the processor from QEMU for a third of that time, or of its last 300 s.
    """
    try:
        status = monitor.execute("query-status", deadline=Deadline.after(_STATUS))
    except TestbedError:
        return _silent_emulator(process)
    if not status.get("running"):
        return _not_running(str(status.get("status")), process, transcript.tail())
    return _timer_lost(monitor, process, transcript, emulated=emulated) or _starved(process, transcript, waited)


def _timer_lost(monitor: Monitor, process: QemuProcess, transcript: Transcript, *, emulated: bool) -> TimerLost | None:
    if not emulated or not _KERNEL.search(transcript.tail(_LINES)):
        return None
    try:
        found = _processors(monitor)
    except TestbedError:
        return None
    idle = idle_for(process.share.samples(), process.threads_on_host(found.threads))
    return _lost_timer(idle, transcript.tail()) if idle >= _LOST and found.wait_in_vain else None


def _starved(process: QemuProcess, transcript: Transcript, waited: float) -> MachineStarved | None:
    found = withheld(process.share.samples(), waited)
    if not found.is_starvation:
        return None
    return MachineStarved(f"the guest was too slow, on a host that is too busy: {found}",
                          expected="a host that lets QEMU run for two thirds of the time", evidence=transcript.tail(),
                          hint="start fewer machines at once, stop other programs, or use a faster host")  # fmt: skip


def _silent_emulator(process: QemuProcess) -> HostError | None:
    """The host's fault if QEMU is held, lacks the processor, or hangs; a guest can keep it too busy to answer."""
    state, found = process.state(), withheld(process.share.samples(), _STATUS)
    is_held = state.removeprefix("State:").strip()[:1] in _HELD
    if not is_held and not found.is_starvation and found.ran >= _USED * found.within:
        return None
    return HostError("QEMU itself does not answer", expected="an answer of its monitor", evidence=f"{state}\n{found}",
                     hint="it was stopped, or the host is overloaded")


def _not_running(state: str, process: QemuProcess, console: str) -> Explained:
    if did := _BY_THE_GUEST.get(state):
        return GuestCrashed(f"the guest {did}", expected="it runs until the test bed stops it",
                            evidence=f"QEMU's state: {state}\n{process.stderr()}\n{console}")
    return HostError(f"the machine does not run: its state in QEMU is {state}",
                     expected="it runs until the test bed stops it", evidence=console)


def went_down(reason: str, console: str) -> GuestCrashed:
    """Returns the error of a guest that went down by itself, with the cause that its console names, if it names one."""
    happened = f"the guest went down by itself ({reason})"
    if actions := _ACTION.findall(console):
        return GuestCrashed(f"{happened}: its console says: {actions[-1]}", evidence=console,
                            expected="a system whose own checks pass", hint="see why that unit failed")
    failed = "; ".join(_UNIT_FAILED.findall(console)[-3:])
    return GuestCrashed(f"{happened} after: {failed}" if failed else happened, evidence=console)


def in_initramfs(method: str, console: str) -> BootFailed:
    """Returns the error of a boot whose console has the shell of an initramfs that did not mount the system."""
    return BootFailed(f"the shell that the access method {method} found is one of the initramfs",
                      expected="the root file system is mounted, and the prompt is the system's", evidence=console,
                      hint="see on the console which device was waited for")  # fmt: skip


def is_starved(process: QemuProcess) -> bool:
    """Returns whether the host withheld the processor from QEMU for a third of the last minute, or of its life."""
    return withheld(process.share.samples(), _RECENT).is_starvation


def of_attempts(ends: Sequence[Explained], *, is_starved: bool) -> Explained:
    """Returns the error of a machine whose attempts to power on ended with those: mostly the last.

    A timer fails to tick once in many boots, by a short pause or a fault of the emulator. A guest can say so, or stop
    all its processors, at each: that is the host's fault only if it withholds the processor.
    """
    if is_starved or len(ends) == 1 or not all(isinstance(end, TimerStarved) for end in ends):
        return ends[-1]
    return BootFailed(f"at each of {len(ends)} power-ons the guest stopped for want of a timer: {ends[-1].happened}",
                      expected=ends[-1].expected, evidence=ends[-1].evidence)  # fmt: skip


def disk_error(operation: str, reason: str, files: Sequence[Path], console: str) -> Explained:
    """Returns whose fault it is that QEMU could not read or write a disk in those files, for another reason than space.

    The host's where it cannot read one of them whole, or sync it; else the image holds data that QEMU cannot read, such
    as a compressed cluster that is damaged.
    """
    happened, deadline = f"the machine's disk failed to {operation}: {reason}", Deadline.after(_READING)
    try:
        for path in files:
            _read_whole(path, deadline)
    except OSError as error:
        return HostError(happened, evidence=f"{path}: {error.strerror or error}\n{console}",
                         hint="the host's disk fails: see its kernel log, or set TMPDIR to another disk")
    return DiskDamaged(happened, expected="an image whose data QEMU can read", hint="copy the image again",
                       evidence=f"the host reads image and overlay whole, and syncs them, without an error\n{console}")


def _read_whole(path: Path, deadline: Deadline) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
        while os.read(descriptor, _CHUNK) and not deadline.expired:
            pass
    finally:
        os.close(descriptor)


def _processors(monitor: Monitor) -> _Processors:
    def shown(command: str, **options: object) -> str:
        arguments: dict[str, object] = {"command-line": command, **options}
        return str(monitor.execute("human-monitor-command", arguments, deadline=Deadline.after(_STATUS)))

    cpus = monitor.execute("query-cpus-fast", deadline=Deadline.after(_STATUS))
    return _Processors(threads=tuple(int(cpu["thread-id"]) for cpu in cpus), registers=shown("info registers -a"),
                       timers=tuple(shown("info lapic", **{"cpu-index": cpu["cpu-index"]}) for cpu in cpus))


def _lost_timer(idle: float, console: str) -> TimerLost:
    return TimerLost(f"the emulator lost the guest's timer: no virtual CPU executed anything for {idle:.0f} s",
                     expected=f"a kernel that waits for an interrupt gets one of its timer within {_LOST:.0f} s",
                     evidence=console, hint=_EMULATION)


def timer_is_armed(timer: str) -> bool:
    """Returns whether a local APIC, as `info lapic` shows it, will interrupt its CPU; one with TSC deadlines may."""
    return re.search(r"current_count = [1-9]|tsc-deadline", timer) is not None


def waits_for_interrupt(registers: str) -> bool:
    """Returns whether each CPU of `info registers -a` has halted, at least one of them with interrupts enabled."""
    cpus = [(int(flags, 16), halted == "1") for flags, halted in _CPU.findall(registers)]
    return bool(cpus) and all(halted for _, halted in cpus) and any(flags & _INTERRUPTS_ENABLED for flags, _ in cpus)
