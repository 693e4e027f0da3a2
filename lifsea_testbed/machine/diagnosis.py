"""Whose fault it is that a guest gave up or does not answer: what the host and QEMU show of it.

A fatal line that a busy host can cause is the host's fault if the host withheld the processor from QEMU for long
enough before it (`qemu.processor_share`). A guest that does not answer is not at fault if QEMU does not answer either,
or does not run it, or if the emulator lost its timer: then every virtual CPU has halted, with interrupts enabled as in
the idle loop of a kernel, and none has executed an instruction since, though the timers of a kernel end its idleness
within seconds. A guest whose CPUs all halted with interrupts disabled stopped by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lifsea_testbed.console.fatal_lines import Suspicion
from lifsea_testbed.console.transcript import Measured, Transcript
from lifsea_testbed.errors import HostError, TestbedError, TimerStarved
from lifsea_testbed.qemu.process import QemuProcess
from lifsea_testbed.qemu.processor_share import ProcessorSample, idle_for, withheld
from lifsea_testbed.qemu.qmp import Monitor
from lifsea_testbed.support.deadline import Deadline

#: How long QEMU may take to return its status and the registers (seconds).
_STATUS = 2.0
#: A kernel that has not executed an instruction for so long (seconds) has lost its timer: the watchdog of Linux alone
#: wakes each CPU every 4 s (kernel/watchdog.c, set_sample_period).
_LOST = 30.0
#: A CPU in the output of `info registers -a` (QEMU, target/i386/cpu-dump.c), and the flag IF of its EFLAGS.
_CPU = re.compile(r"\b[ER]FL=([0-9a-f]+) .*?\bHLT=([01])", re.DOTALL)
_INTERRUPTS_ENABLED = 1 << 9
#: printk's time stamp: a kernel has started.
_KERNEL = re.compile(r"\[ *\d+\.\d{6}\] ")
#: How many lines of the console are searched for it.
_LINES = 500


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
        registers, threads = _registers(monitor)
    except TestbedError:
        return None
    return _lost_timer(process.share.samples(), threads, registers, transcript.tail())


def _registers(monitor: Monitor) -> tuple[str, Sequence[int]]:
    """Returns the registers of each virtual CPU, and the threads that execute them."""
    cpus = monitor.execute("query-cpus-fast", deadline=Deadline.after(_STATUS))
    text = monitor.execute("human-monitor-command", {"command-line": "info registers -a"},
                           deadline=Deadline.after(_STATUS))  # fmt: skip
    return str(text), [int(cpu["thread-id"]) for cpu in cpus]


def _lost_timer(samples: Sequence[ProcessorSample], threads: Sequence[int], registers: str,
                console: str) -> TimerStarved | None:
    idle = idle_for(samples, threads)
    if idle < _LOST or not waits_for_interrupt(registers):
        return None
    return TimerStarved(f"the emulator lost the guest's timer: no virtual CPU executed anything for {idle:.0f} s",
                        expected=f"a kernel that waits for an interrupt gets one of its timer within {_LOST:.0f} s",
                        evidence=console, hint="a fault of QEMU's emulation: try again, another version of it, or KVM")


def waits_for_interrupt(registers: str) -> bool:
    """Returns whether each CPU of `info registers -a` has halted, at least one of them with interrupts enabled."""
    cpus = [(int(flags, 16), halted == "1") for flags, halted in _CPU.findall(registers)]
    return bool(cpus) and all(halted for _, halted in cpus) and any(flags & _INTERRUPTS_ENABLED for flags, _ in cpus)
