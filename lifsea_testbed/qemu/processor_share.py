"""The processor time that the host gives to QEMU's threads, and that it withholds from them.

Sources: proc(5), stat and task; Documentation/scheduler/sched-stats.rst for schedstat: the time on a processor and the
time of waiting for one, in nanoseconds. A kernel without CONFIG_SCHED_INFO has no such file: then nothing is measured.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: The interval of the samples, and how long they are kept (seconds).
EVERY = 1.0
_KEPT = 300.0
#: A pause of the samples that is longer than this (seconds) was one of the whole host, or of all processes of the run.
_PAUSE = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")
#: A process that lacks a processor for this part of a time is starved.
_LACKED = 1 / 3
#: A thread that ran for more than this part of a time was not paused in it.
_RUNNING = 0.1
#: A thread that was on a processor for less than this part of a time executed nothing of a guest.
_IDLE = 0.005
#: What the thread of a virtual CPU has run (seconds) once a kernel has started that CPU.
_BEGUN = 0.5
#: States of a thread that is stopped, or waits for the host's disk (proc(5)).
_HELD = "TtD"


@dataclass(frozen=True, kw_only=True)
class ThreadTimes:
    """The time that a thread was on a processor and the time that it waited for one (seconds), and its state."""

    ran: float
    waited: float
    state: str = "S"


@dataclass(frozen=True, kw_only=True)
class ProcessorSample:
    """The threads of a process at one moment (seconds), and what others had of the host's CPUs until then.

    `stolen` is the time that a hypervisor took from each CPU, `others` the time that all processes but this one and
    the test bed's used, on all CPUs together.
    """

    at: float
    threads: Mapping[int, ThreadTimes] = field(default_factory=dict)
    stolen: float = 0.0
    others: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WithheldTime:
    """How long a process lacked a processor within a time before a moment, and how long its threads ran (seconds)."""

    seconds: float
    ran: float
    within: float

    @property
    def is_starvation(self) -> bool:
        """Whether it lacked a processor for a third of the time."""
        return self.within > 0 and self.seconds >= _LACKED * self.within

    def __str__(self) -> str:
        """The measurement in words."""
        return (f"of the last {self.within:.1f} s the host withheld the processor from QEMU for {self.seconds:.1f} s; "
                f"QEMU's threads used {self.ran:.1f} s of processor time")


def withheld(samples: Sequence[ProcessorSample], within: float) -> WithheldTime:
    """Returns how long the process lacked a processor in the last `within` seconds of the samples.

    That is the waiting time of the thread that waited longest, with the time for which the process was stopped, the
    time taken by a hypervisor below the host, and the pauses in which no sample could be taken. Threads that wait for
    each other's processor, as a busy guest makes them, lack none: no more counts than others used meanwhile.
    """
    recent = [sample for sample in samples if sample.at >= samples[-1].at - within - EVERY / 2] if samples else []
    steps = list(itertools.pairwise(recent))
    threads = {thread for sample in recent for thread in sample.threads}
    waited = max((sum(_held(*step, thread) or min(_queued(*step, thread), step[1].others - step[0].others)
                      for step in steps) for thread in threads), default=0.0)  # fmt: skip
    span = recent[-1].at - recent[0].at if recent else 0.0
    seconds = waited + sum(_paused(*step, threads) + max(0.0, step[1].stolen - step[0].stolen) for step in steps)
    ran = sum(_ran(*step, thread) for step in steps for thread in threads)
    return WithheldTime(seconds=min(seconds, span), ran=ran, within=span)


def idle_for(samples: Sequence[ProcessorSample], threads: Collection[int]) -> float:
    """Returns for how many seconds before the last sample none of those threads did any work; 0 if unknown.

    A thread of a virtual CPU that has halted wakes up now and then and finds nothing to execute: 5 ms a second is none.
    """
    idle = 0.0
    for before, after in zip(reversed(samples[:-1]), reversed(samples[1:]), strict=True):
        if not threads or any(_worked(before, after, thread) for thread in threads):
            break
        idle += after.at - before.at
    return idle


def stood_for(samples: Sequence[ProcessorSample], threads: Collection[int]) -> float:
    """Returns for how many seconds before the last sample one of those threads, which had run, did no work.

    The time since the sample before the last is not looked at: what is asked for may have woken the thread.
    """
    before = list(samples[:-1])
    began = [thread for thread in threads if before and thread in before[-1].threads
             and before[-1].threads[thread].ran > _BEGUN]  # fmt: skip
    return max((idle_for(before, [thread]) for thread in began), default=0.0)


class ProcessorShare:
    """Samples the threads of one process every second, from its creation until `close`, in a thread of its own."""

    def __init__(self, process: int) -> None:
        self._process = Path(f"/proc/{process}")
        self._samples: deque[ProcessorSample] = deque(maxlen=int(_KEPT / EVERY))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="processor-share", daemon=True)
        self._thread.start()

    def samples(self) -> list[ProcessorSample]:
        """Returns the samples of the last 300 s, the last one taken now."""
        self._samples.append(sample(self._process))
        return list(self._samples)

    def close(self) -> None:
        """Stops sampling; a second call does nothing."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._samples.append(sample(self._process))
            self._ended.wait(EVERY)


def sample(process: Path) -> ProcessorSample:
    """Returns a sample of a process, by its directory in /proc."""
    stolen, busy = _host_times()
    return ProcessorSample(at=time.monotonic(), threads=dict(_threads(process)), stolen=stolen,
                           others=busy - _used(process) - time.process_time())  # fmt: skip


def _threads(process: Path) -> Iterator[tuple[int, ThreadTimes]]:
    with contextlib.suppress(OSError):
        for thread in sorted((process / "task").iterdir()):
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or the kernel counts nothing
                ran, waited, _ = map(int, (thread / "schedstat").read_text("ascii").split())
                state = (thread / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
                yield int(thread.name), ThreadTimes(ran=ran / 1e9, waited=waited / 1e9, state=state)


def _host_times() -> tuple[float, float]:
    """The time that a hypervisor took from each CPU of the host, and that all processes used (seconds since its start).

    proc(5), stat: user, nice, system, idle, iowait, irq, softirq, steal; the time of guests is part of user.
    """
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/stat").read_text("ascii", "replace")
        user, nice, system, _, _, irq, softirq, steal = map(int, text.partition("\n")[0].split()[1:9])
        return steal / _TICKS / max(1, os.cpu_count() or 1), (user + nice + system + irq + softirq) / _TICKS
    return 0.0, 0.0


def _used(process: Path) -> float:
    """The processor time of a process, with that of its threads that have ended (seconds; proc(5), stat)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = (process / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _ran(before: ProcessorSample, after: ProcessorSample, thread: int) -> float:
    if thread not in before.threads or thread not in after.threads:
        return 0.0
    return max(0.0, after.threads[thread].ran - before.threads[thread].ran)


def _held(before: ProcessorSample, after: ProcessorSample, thread: int) -> float:
    """How long a thread was stopped, or waited for the host's disk."""
    if thread not in before.threads or thread not in after.threads:
        return 0.0
    first, last = before.threads[thread], after.threads[thread]
    is_held = all(state in _HELD for state in (first.state, last.state)) and last.ran == first.ran
    return after.at - before.at if is_held else 0.0


def _queued(before: ProcessorSample, after: ProcessorSample, thread: int) -> float:
    """How long a thread waited for a processor; a wait that has not ended is not in the kernel's sum yet."""
    if thread not in before.threads or thread not in after.threads:
        return 0.0
    first, last, length = before.threads[thread], after.threads[thread], after.at - before.at
    still_waits = first.state == last.state == "R" and last.ran == first.ran
    return length if still_waits else min(length, max(0.0, last.waited - first.waited))


def _paused(before: ProcessorSample, after: ProcessorSample, threads: Collection[int]) -> float:
    """How long nothing ran: neither the thread that takes the samples nor, to speak of, one of the process."""
    length = after.at - before.at
    ran = any(_ran(before, after, thread) > _RUNNING * length for thread in threads)
    return length - EVERY if length > _PAUSE and not ran else 0.0


def _worked(before: ProcessorSample, after: ProcessorSample, thread: int) -> bool:
    """Whether a thread did any work, as far as is known."""
    known = thread in before.threads and thread in after.threads
    return not known or _ran(before, after, thread) > _IDLE * (after.at - before.at)
