"""The cost of power cuts: `python -m benchmarks.powercut [--reports DIR]`, half an hour on two cores under emulation.

First states of a synthetic log, under a minute; then all flushes and prefixes of one upgrade of the reference image, as
many at once as the host has capacity for. With --reports recording and results stay there, and a later run continues.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.powercut import campaign, qcow2_writer
from lifsea_testbed.powercut.campaign import SweepOptions
from lifsea_testbed.powercut.crash_states import CrashState, CrashStates
from lifsea_testbed.powercut.disk_contents import DiskContents
from lifsea_testbed.powercut.write_log import SECTOR, WriteLog
from tests.support.real import built

#: A log like that of one upgrade, larger: 3,000 writes with a flush after every eighth, 28 MiB in all.
_WRITES, _EPOCH, _DISK = 3000, 8, 1 << 30
_COUNTS = (100, 1000, 10_000)


def log(path: Path) -> None:
    """Writes a log of random writes, most of one page."""
    draw = random.Random(1)
    with path.open("wb") as file:
        file.write(struct.pack("<QQQI", 0x6A736677736872, 1, 0, SECTOR).ljust(SECTOR, b"\0"))
        for number in range(_WRITES):
            sectors = draw.choice((8, 8, 8, 8, 32, 64))
            place = draw.randrange(4096) * 64
            file.write(struct.pack("<QQQQ", place, sectors, 0, 0).ljust(SECTOR, b"\0"))
            file.write(draw.randbytes(sectors * SECTOR))
            if number % _EPOCH == _EPOCH - 1:
                file.write(struct.pack("<QQQQ", 0, 0, 1, 0).ljust(SECTOR, b"\0"))


def digests(contents: DiskContents, states: CrashStates) -> dict[int, float]:
    """Prints and returns microseconds a state for each number of states, drawn from all kinds alike."""
    found = {}
    every = list(itertools.islice(states.enumerate(), 100_000))
    for count in _COUNTS:
        chosen = random.Random(count).sample(every, count)
        started = time.perf_counter()
        distinct = len({contents.digest(state) for state in chosen})
        found[count] = 1e6 * (time.perf_counter() - started) / count
        print(f"{count:6} digests of states: {found[count]:6.1f} µs a state, {distinct} distinct")
    return found


def making(contents: DiskContents, states: CrashStates, folder: Path) -> float:
    """Prints how long it takes to write a state's disk above its milestone; returns the longest time (seconds)."""
    taken = []
    with qcow2_writer.Milestones(contents, states, folder) as milestones:
        for state in _spread(states):
            milestones.write(folder / "state.qcow2", state)
            started = time.perf_counter()
            milestones.write(folder / "state.qcow2", state)
            taken.append(time.perf_counter() - started)
            print(f"{state.name}: {taken[-1]:.3f} s, {(folder / 'state.qcow2').stat().st_size >> 20} MiB")
    return max(taken)


def _spread(states: CrashStates) -> Iterator[CrashState]:
    for epoch in (0, 100, 200, len(states.epochs) - 1):
        yield states.find(f"epoch {epoch}")


def cost() -> None:
    """Prints the cost of a state's digest and of its disk, on the synthetic log."""
    with tempfile.TemporaryDirectory() as folder:
        path, below = Path(folder) / "log", Path(folder) / "base"
        log(path)
        with below.open("wb") as file:
            file.truncate(_DISK)
        with RawFile(path) as source, RawFile(below) as base:
            started = time.perf_counter()
            read = WriteLog(source, disk_size=_DISK)
            contents, states = DiskContents(read, base), CrashStates(read.entries)
            print(f"{len(read.entries)} entries read and hashed in {time.perf_counter() - started:.2f} s")
            costs = digests(contents, states)
            slowest = making(contents, states, Path(folder))
    print(f"{max(costs.values()):.0f} µs a state at most, {costs[_COUNTS[-1]] / costs[_COUNTS[0]]:.2f} times "
          f"as much at {_COUNTS[-1]} as at {_COUNTS[0]}; a disk in {slowest:.3f} s at most")  # fmt: skip


def sweep(reports: Path) -> None:
    """Sweeps the flushes and prefixes of one upgrade; prints the time and the verdicts."""
    context = run_context(image=str(built("reference")), next_image=str(built("next")), profile="reference",
                          instance_type="ecs.g7.large", accelerator="auto", reports=reports)  # fmt: skip
    with contextlib.closing(MachineFactory(context)) as factory:
        options, started = SweepOptions.parse(reports=reports, only=["flush", "prefix"]), time.monotonic()
        print(f"{factory.concurrency()} states at once, {factory.accelerator.kind}")
        with campaign.open_sweep(factory, options):
            print(f"recorded in {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        summary = campaign.survey(factory, options)
    print(f"swept in {(time.monotonic() - started) / 60:.1f} min: {summary.old} old, {summary.new} new; "
          f"{summary.inferred / summary.distinct:.0%} inferred, {summary.unconfirmed} to be confirmed")  # fmt: skip
    print(summary.line)


def main() -> None:
    """Runs both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=Path, metavar="DIR", help="keep the recording and the results there")
    kept = parser.parse_args().reports
    cost()
    with tempfile.TemporaryDirectory() as scratch:
        reports = (kept or Path(scratch)).resolve()
        reports.mkdir(parents=True, exist_ok=True)
        sweep(reports)


if __name__ == "__main__":
    main()
