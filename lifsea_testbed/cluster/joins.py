"""Machines that join a cluster all at once, and how long that takes."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lifsea_testbed.cluster import lifecycle
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.cluster.watch import Watch
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.machine.fleet import fleet
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Joins:
    """Machines that are Ready nodes, and the seconds that each took from its own power-on."""

    members: Sequence[Member]
    seconds: Sequence[float]

    def share(self, part: float) -> float:
        """Returns the seconds after which that part of them was Ready: 0.9 is the P90, a time that one of them took."""
        return sorted(self.seconds)[math.ceil(part * len(self.seconds)) - 1]


@contextlib.contextmanager
def joined(cluster: Cluster, profile: Profile, create: Callable[[MachineSpec], AbstractContextManager[Machine]],
           count: int, *, memory: int) -> Iterator[Joins]:
    """So many new machines, with so much memory each (MiB), that are Ready nodes; powered on side by side.

    Raises:
        NotReady: one of them does not become one.
    """
    members: list[Member] = []

    def expect(machine: Machine) -> None:
        members.append(cluster.expect(machine))

    machines = [create(MachineSpec(name=f"node-{number}-of-{count}", guest_memory=memory, prepare=expect))
                for number in range(1, count + 1)]  # fmt: skip
    with Watch(cluster.api) as watch, fleet(machines):
        for member in members:
            lifecycle.await_ready(member, profile)
        for member in members:
            member.machine.wait_until(functools.partial(watch.saw, member.name), "the watch sees it",
                                      within=profile.cluster.ready_within)  # fmt: skip
        yield Joins(members=members, seconds=[watch.ready_at[one.name] - one.machine.boot.power_on for one in members])
