"""Machines: the cost of a restored machine and of a booted one; alone, a hundred times, on two workers, in memory.

    python -m benchmarks.machines [--image FILE] [--tests N]

Everything is measured in the same run, on a snapshot that is made for it. The last line has the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.pool import MachinePool
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.machine.snapshot_cache import SnapshotCache
from lifsea_testbed.support.private_dir import PrivateDirectory, allocated

_ROOT = Path(__file__).parent.parent
_COLD, _RESTORED, _AT_ONCE, _ROUNDS = 2, 15, 4, 3
_FIRST = "echo first >/etc/first"
_SUITE = '''
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_change(machine, number):
    """Finds no other test's change, and makes its own."""
    machine.run(f"test ! -e /etc/changed && echo {{number}} >/etc/changed")
'''


def cold(factory: MachineFactory) -> tuple[float, float]:
    """Returns the seconds from a cold start to the first answered command, and until every unit is up."""
    shell, ready = [], []
    for number in range(_COLD):
        started = time.monotonic()
        with factory.create(MachineSpec(name=f"cold-{number}")) as machine:
            machine.run(_FIRST)
            shell.append(time.monotonic() - started)
            machine.wait_until_ready()
            ready.append(time.monotonic() - started)
        print(f"cold boot: first answer after {shell[-1]:.2f} s, ready after {ready[-1]:.2f} s")
    return statistics.median(shell), statistics.median(ready)


def make(pool: MachinePool, ready: float) -> None:
    """Makes the snapshot, and prints its cost, also relative to a cold boot until ready."""
    started = time.monotonic()
    snapshot = pool.snapshot()
    if snapshot is None:
        sys.exit(f"machines cannot be restored here: {pool.why_cold}")
    seconds = time.monotonic() - started
    quiet, size = snapshot.facts.quiet_seconds, allocated(snapshot.directory) >> 20
    print(f"snapshot: {seconds:.2f} s, of which {quiet:.2f} s until the guest was quiet; without that "
          f"{seconds - quiet - ready:+.2f} s relative to a cold boot until ready; {size} MiB on disk")


def restored(pool: MachinePool) -> float:
    """Returns the median time that a restored machine takes until its first answered command (seconds)."""
    durations = []
    for number in range(_RESTORED):
        started = time.monotonic()
        with pool.restored(f"restored-{number}") as machine:
            machine.run(_FIRST)
            durations.append(time.monotonic() - started)
    median = statistics.median(durations)
    print(f"restored: first answer after {median:.3f} s (from {min(durations):.3f} to {max(durations):.3f} s)")
    return median


def memory(pool: MachinePool) -> None:
    """Prints the memory that machines restored from one snapshot take together."""
    with contextlib.ExitStack() as stack:
        machines = [stack.enter_context(pool.restored(f"memory-{number}")) for number in range(_AT_ONCE)]
        for machine in machines:
            machine.run(_FIRST)
        used = [_used(machine) for machine in machines]
        size = machines[0].fidelity.memory
    alone, proportional = sum(use[0] for use in used) >> 20, sum(use[1] for use in used) >> 20
    print(f"memory of {_AT_ONCE} machines of {size} MiB, {_AT_ONCE * size} MiB together: {proportional} MiB (Pss); "
          f"{alone} MiB if they shared nothing (Rss), so {100 - 100 * proportional // alone} % are saved")  # fmt: skip


def _used(machine: Machine) -> tuple[int, int]:
    info = psutil.Process(machine.boot.process.pid).memory_full_info()
    return info.rss, info.pss


def suite(image: str, cache: Path, tests: int, *options: str) -> float:
    """Returns the time that pytest takes for so many tests that each change their machine (seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_changes.py").write_text(_SUITE.format(tests=tests))
        without = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
        command = [sys.executable, "-m", "pytest", "-q", *without, "--image", image, "--profile", "reference",
                   "--reports", f"{folder}/reports", *options]  # fmt: skip
        started = time.monotonic()
        ran = subprocess.run(command, cwd=folder, env={**os.environ, "XDG_CACHE_HOME": str(cache)},
                             capture_output=True, text=True, check=False)  # fmt: skip
        seconds = time.monotonic() - started
    if not re.search(rf"\b{tests} passed", ran.stdout):
        sys.exit(f"the suite did not pass:\n{ran.stdout[-4000:]}{ran.stderr[-2000:]}")
    print(f"{tests} tests {' '.join(options)}: {seconds:.1f} s")
    return seconds


@contextlib.contextmanager
def _machines(image: str, cache: Path) -> Iterator[tuple[MachineFactory, MachinePool]]:
    with tempfile.TemporaryDirectory() as reports:
        context = run_context(image=image, profile="reference", instance_type="ecs.g7.large",
                              accelerator="auto", reports=Path(reports))  # fmt: skip
        factory = MachineFactory(context)
        print(f"accelerator: {factory.accelerator}")
        pool = MachinePool(factory, SnapshotCache(cache / "lifsea-testbed" / "templates"))
        try:
            yield factory, pool
        finally:
            pool.close()
            factory.close()


def main() -> None:
    """Measures and prints everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", default=str(_ROOT / "build/reference.qcow2"))
    parser.add_argument("--tests", type=int, default=100)
    options = parser.parse_args()
    image = str(Path(options.image).resolve())
    with PrivateDirectory() as private:
        cache = private.path
        with _machines(image, cache) as (factory, pool):
            boot, ready = cold(factory)
            make(pool, ready)
            restore = restored(pool)
            memory(pool)
        rounds = [(suite(image, cache, options.tests), suite(image, cache, options.tests, "-n", "2"))
                  for _ in range(_ROUNDS)]  # fmt: skip
    one, gain = statistics.median(one for one, _ in rounds), statistics.median(one / two for one, two in rounds)
    print(f"machines: restore {restore:.2f} s, {boot / restore:.0f}× boot; {options.tests} tests {one:.0f} s; "
          f"2 workers {gain:.2f}×")  # fmt: skip


if __name__ == "__main__":
    main()
