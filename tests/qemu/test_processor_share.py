"""The time that the host withholds from a process is measured: none from one that sleeps, most from a crowded one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lifsea_testbed.qemu import processor_share
from lifsea_testbed.qemu.processor_share import (
    ProcessorSample,
    ProcessorShare,
    ThreadTimes,
    WithheldTime,
    idle_for,
    stood_for,
    withheld,
)

BUSY = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


def samples(*threads: dict[int, ThreadTimes], every: float = 1.0, stolen: float = 0.0,
            others: float = 1.0) -> list[ProcessorSample]:
    return [ProcessorSample(at=number * every, threads=seen, stolen=number * stolen, others=number * others)
            for number, seen in enumerate(threads)]  # fmt: skip


def times(ran: float = 0.0, waited: float = 0.0, state: str = "S") -> ThreadTimes:
    return ThreadTimes(ran=ran, waited=waited, state=state)


def test_the_thread_that_waited_longest_counts() -> None:
    seen = samples(*({7: times(number * 0.5, number * 0.25), 8: times(number * 0.1, number * 0.75)}
                     for number in range(9)))  # fmt: skip
    found = withheld(seen, 4.0)
    assert (found.seconds, found.within) == (3.0, 4.0) and found.ran == pytest.approx(2.4)


def test_a_wait_counts_before_it_has_ended() -> None:
    assert withheld(samples(*[{7: times(1.0, 0.0, "R")}] * 5), 4.0).seconds == 4.0
    assert withheld(samples(*[{7: times(1.0, 0.0, "D")}] * 5), 4.0).seconds == 4.0
    assert withheld(samples(*[{7: times(1.0, 0.0, "S")}] * 5), 4.0).seconds == 0.0


def test_threads_that_wait_for_each_other_lack_no_processor() -> None:
    crowded = [{7: times(number * 0.5, number * 0.5), 8: times(number * 0.5, number * 0.5)} for number in range(5)]
    assert withheld(samples(*crowded, others=0.1), 4.0).seconds == pytest.approx(0.4)
    assert withheld(samples(*crowded, others=0.5), 4.0).seconds == pytest.approx(2.0)
    assert withheld(samples(*[{7: times(state="T")}] * 5, others=0.0), 4.0).seconds == 4.0


def test_a_stopped_process_a_hypervisor_and_a_pause_of_the_host_withhold_as_well() -> None:
    assert withheld(samples(*[{7: times(state="T")}] * 5), 4.0).seconds == 4.0
    assert withheld(samples(*[{7: times()}] * 5, stolen=0.5), 4.0).seconds == 2.0
    assert withheld(samples({7: times()}, {7: times()}, every=30.0), 60.0).seconds == 29.0


def test_a_pause_of_the_test_bed_alone_withholds_nothing() -> None:
    assert withheld(samples({7: times()}, {7: times(ran=30.0)}, every=30.0), 60.0).seconds == 0.0


def test_without_a_measurement_nothing_was_withheld() -> None:
    assert withheld([], 20.0).seconds == 0.0
    assert withheld(samples({}, {}, {}), 20.0).seconds == 0.0
    assert withheld(samples({7: times()}, {8: times(waited=9.0)}), 20.0).seconds == 0.0
    assert idle_for([], [7]) == idle_for(samples({}, {}), [7]) == 0.0
    assert idle_for(samples({7: times()}, {7: times()}), []) == 0.0


def test_threads_are_idle_since_the_last_of_them_ran() -> None:
    ran = [0.0, 1.0, 1.0, 1.0, 1.0]
    seen = samples(*({7: times(seconds), 8: times()} for seconds in ran))
    assert idle_for(seen, [7, 8]) == 3.0
    assert idle_for(seen, [8]) == 4.0
    assert idle_for(samples({7: times()}, {7: times(0.01)}), [7]) == 0.0
    assert idle_for(samples({7: times()}, {7: times(0.001)}), [7]) == 1.0


def test_a_thread_stands_until_what_asks_for_it_wakes_it() -> None:
    stands = [9.0, 9.0, 9.0, 9.0, 9.3]
    seen = samples(*({7: times(ran), 8: times(float(second)), 9: times()} for second, ran in enumerate(stands)))
    assert stood_for(seen, [7, 8]) == 3.0
    assert stood_for(seen, [8]) == 0.0
    assert stood_for(seen, [9]) == 0.0  # it was never started
    assert stood_for(seen[:1], [7]) == stood_for([], [7]) == stood_for(seen, []) == 0.0


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, *command: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def measure(stack: ExitStack, process: subprocess.Popen[bytes], seconds: float) -> WithheldTime:
    share = ProcessorShare(process.pid)
    stack.callback(share.close)
    time.sleep(seconds)
    return withheld(share.samples(), seconds)


def test_processes_that_share_a_cpu_withhold_it_from_each_other(processes: ExitStack) -> None:
    one, *_ = (started(processes, sys.executable, "-c", BUSY) for _ in range(3))
    found = measure(processes, one, 4.0)
    assert found.seconds > 4.0 / 3 and 0.0 < found.ran < 3.0, found


def test_a_process_that_crowds_itself_out_lacks_no_processor(processes: ExitStack) -> None:
    crowd = ("import hashlib, os, threading\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
             "def work():\n    while True: hashlib.sha256(bytes(1 << 22))\n"
             "[threading.Thread(target=work).start() for _ in range(3)]")  # fmt: skip
    process = started(processes, sys.executable, "-c", crowd)
    place = Path(f"/proc/{process.pid}")
    before = processor_share.sample(place)
    found = measure(processes, process, 4.0)
    after = processor_share.sample(place)
    waited = sum(thread.waited for thread in after.threads.values())
    assert waited > found.seconds, "its threads waited for each other"
    assert found.seconds <= after.others - before.others + 0.5


def test_nothing_is_withheld_from_a_process_that_sleeps(processes: ExitStack) -> None:
    assert measure(processes, started(processes, "sleep", "60"), 3.0).seconds < 1.0


def test_a_process_that_is_stopped_lacks_a_processor(processes: ExitStack) -> None:
    process = started(processes, "sleep", "60")
    os.kill(process.pid, signal.SIGSTOP)
    assert measure(processes, process, 3.0).seconds > 1.5


def test_a_process_that_has_ended_is_no_error(processes: ExitStack) -> None:
    process = started(processes, "true")
    process.wait()
    assert processor_share.sample(Path(f"/proc/{process.pid}")).threads == {}
