"""Nodes: the time until machines are Ready in the API; cold, from a snapshot, and several at once.

    python -m benchmarks.nodes [--image FILE] [--control-plane DIR] [--at-once N ...]

Seconds from power-on for machines that join at their first boot, from the joining script for restored ones.
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

from lifsea_testbed.boottime import campaign
from lifsea_testbed.cluster import lifecycle, rollout
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.pool import MachinePool
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.machine.snapshot_cache import SnapshotCache

_RESTORED = 5


@contextlib.contextmanager
def control_plane(pool: MachinePool, programs: Path, records: Path) -> Iterator[Cluster]:
    """A control plane; prints how long it took to be ready."""
    started = time.monotonic()
    factory = pool.factory
    with Cluster(factory.profile, programs, records=records) as cluster:
        print(f"control plane: ready after {time.monotonic() - started:.1f} s")
        yield cluster


def restored(pool: MachinePool, cluster: Cluster) -> None:
    """Prints how long a restored machine takes to join."""
    seconds = []
    for number in range(_RESTORED):
        with pool.restored(f"restored-{number}") as machine:
            started = time.monotonic()
            lifecycle.await_ready(member := cluster.join(machine), pool.factory.profile)
            seconds.append(time.monotonic() - started)
        cluster.api.delete_node(member.name)
    print(f"restored: Ready after {statistics.median(seconds):.1f} s (median of {_RESTORED}; "
          f"{min(seconds):.1f} to {max(seconds):.1f} s)")  # fmt: skip


def counted(pool: MachinePool, cluster: Cluster) -> None:
    """Prints the instructions that a machine executes from power-on until it is Ready."""
    factory = pool.factory
    members: list[Member] = []
    with contextlib.ExitStack() as stack:
        counter = campaign.counter(stack, factory)
        spec = MachineSpec(name="counted", counter=counter, prepare=lambda one: members.append(cluster.expect(one)))
        machine = stack.enter_context(factory.create(spec))
        lifecycle.await_ready(members[0], factory.profile)
        if machine.boot.counts is not None:
            work = machine.boot.counts.record().samples[-1].counts.work
            print(f"cold, counted: {work / 1e9:.2f} G instructions until Ready, less waiting and ticks", flush=True)


def at_once(pool: MachinePool, programs: Path, records: Path, count: int) -> None:
    """Prints how long `count` machines take that are powered on at once and join at their first boot."""
    factory = pool.factory
    memory = factory.memory_for(count)
    with control_plane(pool, programs, records) as cluster:
        before = cluster.plane.processor_time()
        with rollout.joined_fleet(cluster, factory.profile, factory.create, count, memory=memory) as joined:
            used = (cluster.plane.processor_time() - before) / count
            shares = ", ".join(f"P{part} {joined.share(part / 100):.1f} s" for part in (50, 90, 100))
    print(f"{count} at once, {memory} MiB each: Ready after {shares}; for each the control plane used {used:.2f} s "
          f"of a processor; load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip


def main() -> None:
    """Runs the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="build/reference.qcow2")
    parser.add_argument("--control-plane", type=Path, default=Path("build/control-plane"))
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 2, 4, 8])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as reports:
        context = run_context(image=options.image, profile="auto", instance_type="ecs.g7.large",
                              accelerator="auto", reports=Path(reports))  # fmt: skip
        factory = MachineFactory(context)
        pool = MachinePool(factory, SnapshotCache(snapshot_cache.directory()))
        try:
            with control_plane(pool, options.control_plane, Path(reports)) as cluster:
                restored(pool, cluster)
                counted(pool, cluster)
            for count in options.at_once:
                at_once(pool, options.control_plane, Path(reports), count)
        finally:
            pool.close()
            factory.close()


if __name__ == "__main__":
    main()
