"""Nodes: how long machines take until the API server calls them Ready; cold, from a template, and several at once.

    python -m benchmarks.nodes [--image FILE] [--control-plane DIR] [--at-once N ...]

Seconds from power-on for machines that join at their first boot, from the joining script for those of a template.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.boottime import coldboots
from lifsea_testbed.cluster import joins, lifecycle
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.pool import MachinePool
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.machine.snapshot_cache import SnapshotCache

_RESTORED = 5


@contextlib.contextmanager
def control_plane(restorer: MachinePool, programs: Path, records: Path) -> Iterator[Cluster]:
    """A control plane, and how long it took to be ready."""
    started = time.monotonic()
    bench = restorer.factory
    with Cluster(bench.profile, programs, bench.accelerator.confinement, records=records) as cluster:
        print(f"control plane: ready after {time.monotonic() - started:.1f} s")
        yield cluster


def restored(restorer: MachinePool, cluster: Cluster) -> None:
    """Prints how long a machine of the template takes to join."""
    seconds = []
    for number in range(_RESTORED):
        with restorer.restored(f"restored-{number}") as machine:
            started = time.monotonic()
            lifecycle.await_ready(member := cluster.join(machine), restorer.factory.profile)
            seconds.append(time.monotonic() - started)
        cluster.api.forget(member.name)
    print(f"from a template: Ready after {statistics.median(seconds):.1f} s (median of {_RESTORED}; "
          f"{min(seconds):.1f} to {max(seconds):.1f} s)")  # fmt: skip


def counted(restorer: MachinePool, cluster: Cluster) -> None:
    """Prints how many instructions a machine executes from power-on until it is Ready."""
    bench = restorer.factory
    members: list[Member] = []
    with contextlib.ExitStack() as stack:
        counter = coldboots.counter(stack, bench)
        spec = MachineSpec(name="counted", counter=counter, prepare=lambda one: members.append(cluster.expect(one)))
        machine = stack.enter_context(bench.create(spec))
        lifecycle.await_ready(members[0], bench.profile)
        if machine.boot.counts is not None:
            work = machine.boot.counts.record().samples[-1].counts.work
            print(f"cold, counted: {work / 1e9:.2f} G instructions until Ready, less waiting and ticks", flush=True)


def at_once(restorer: MachinePool, programs: Path, records: Path, count: int) -> None:
    """Prints how long so many machines take that are powered on at once and join at their first boot."""
    bench = restorer.factory
    memory = bench.memory_for(count)
    with control_plane(restorer, programs, records) as cluster:
        before = cluster.plane.processor_time()
        with joins.joined(cluster, bench.profile, bench.create, count, memory=memory) as joined:
            used = (cluster.plane.processor_time() - before) / count
            shares = ", ".join(f"P{part} {joined.share(part / 100):.1f} s" for part in (50, 90, 100))
    print(f"{count} at once, {memory} MiB each: Ready after {shares}; for each the control plane used {used:.2f} s "
          f"of a processor; load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="build/reference.qcow2")
    parser.add_argument("--control-plane", type=Path, default=Path("build/control-plane"))
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 2, 4, 8])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as reports:
        context = run_context(image=options.image, profile="auto", instance_type="ecs.g7.large",
                              accelerator="auto", reports=Path(reports))  # fmt: skip
        bench = MachineFactory(context)
        restorer = MachinePool(bench, SnapshotCache(snapshot_cache.directory()))
        try:
            with control_plane(restorer, options.control_plane, Path(reports)) as cluster:
                restored(restorer, cluster)
                counted(restorer, cluster)
            for count in options.at_once:
                at_once(restorer, options.control_plane, Path(reports), count)
        finally:
            restorer.close()
            bench.close()


if __name__ == "__main__":
    main()
