"""Whose fault it is that a guest gave up or does not answer: what the host and QEMU show of it.

A fatal line that a busy host can cause is the host's fault if the host withheld the processor from QEMU for long
enough before it (`qemu.processor_share`). A guest that does not answer is not at fault if QEMU does not answer either,
or does not run it, or if the emulator lost its timer: then every virtual CPU has halted, with interrupts enabled as in
the idle loop of a kernel, has no timer that will wake it, and executes nothing for half a minute. Measured: a kernel
all of whose processes are stopped has a timer armed, and works for 1 to 3 ms a second. A guest whose CPUs all halted
with interrupts disabled stopped by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lifsea_testbed.console.fatal_lines import Suspicion
from lifsea_testbed.console.transcript import Measured, Transcript
from lifsea_testbed.errors import HostError, TestbedError, TimerStarved
from lifsea_testbed.qemu.process import QemuProcess
from lifsea_testbed.qemu.processor_share import idle_for, withheld
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
#: printk's time stamp: a kernel has started.
_KERNEL = re.compile(r"\[ *\d+\.\d{6}\] ")
#: How many lines of the console are searched for it.
_LINES = 500


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


def measured(process: QemuProcess, suspicion: Suspicion) -> Measured:
    """Returns whether the host withheld the processor from QEMU for as long as a fatal line takes to be its fault."""
    found = withheld(process.share.samples(), suspicion.within)
    if found.seconds < suspicion.withheld:
        return Measured(text=f"the host is not at fault: {found}")
    return Measured(host_is_at_fault=True, text=str(found), hint="start fewer machines at once, or use a faster host")


def silence(monitor: Monitor, process: QemuProcess, transcript: Transcript) -> HostError | None:
    """Returns the host's fault if the guest does not answer because QEMU does not run it; None if that is its own."""
    try:
        status = monitor.execute("query-status", deadline=Deadline.after(_STATUS))
    except TestbedError:
        return HostError("QEMU itself does not answer", expected="an answer of its monitor",
                         evidence=process.state(), hint="it was stopped, or the host is overloaded")
    if not status.get("running"):
        return HostError(f"the machine does not run: its state in QEMU is {status.get('status')}",
                         expected="it runs until the test bed stops it", evidence=transcript.tail())
    if not _KERNEL.search(transcript.tail(_LINES)):
        return None
    try:
        found = _processors(monitor)
    except TestbedError:
        return None
    idle = idle_for(process.share.samples(), process.threads_on_host(found.threads))
    return _lost_timer(idle, transcript.tail()) if idle >= _LOST and found.wait_in_vain else None


def _processors(monitor: Monitor) -> _Processors:
    def shown(command: str, **options: object) -> str:
        arguments: dict[str, object] = {"command-line": command, **options}
        return str(monitor.execute("human-monitor-command", arguments, deadline=Deadline.after(_STATUS)))

    cpus = monitor.execute("query-cpus-fast", deadline=Deadline.after(_STATUS))
    return _Processors(threads=tuple(int(cpu["thread-id"]) for cpu in cpus), registers=shown("info registers -a"),
                       timers=tuple(shown("info lapic", **{"cpu-index": cpu["cpu-index"]}) for cpu in cpus))


def _lost_timer(idle: float, console: str) -> TimerStarved:
    return TimerStarved(f"the emulator lost the guest's timer: no virtual CPU executed anything for {idle:.0f} s",
                        expected=f"a kernel that waits for an interrupt gets one of its timer within {_LOST:.0f} s",
                        evidence=console, hint="a fault of QEMU's emulation: try again, another version of it, or KVM")


def timer_is_armed(timer: str) -> bool:
    """Returns whether a local APIC, as `info lapic` shows it, will interrupt its CPU; one with TSC deadlines may."""
    return re.search(r"current_count = [1-9]|tsc-deadline", timer) is not None


def waits_for_interrupt(registers: str) -> bool:
    """Returns whether each CPU of `info registers -a` has halted, at least one of them with interrupts enabled."""
    cpus = [(int(flags, 16), halted == "1") for flags, halted in _CPU.findall(registers)]
    return bool(cpus) and all(halted for _, halted in cpus) and any(flags & _INTERRUPTS_ENABLED for flags, _ in cpus)
