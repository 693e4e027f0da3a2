"""A rolling upgrade: node after node is cordoned, drained, upgraded, rebooted and let in again, until one fails.

It is what a controller in the cluster would do, by the API of the cluster and the operations of the OS alone.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

from lifsea_testbed.cluster import lifecycle
from lifsea_testbed.cluster.api import Api
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.errors import GuestFailure, HostError
from lifsea_testbed.machine.fleet import fleet
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.steps import step
from lifsea_testbed.upgrade.offer import Offer
from lifsea_testbed.upgrade.tools import upgrade_tool

#: How long a drained node may have pods, on real hardware (seconds): a kubelet removes sandboxes once a minute.
_DRAINING = 120.0


@dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """What became of a rollout: the nodes that were upgraded, why it stopped, what each node runs in the end.

    `fewest` is the smallest number of nodes that were Ready at one time; `drained` tells of each node that was worked
    on whether it was without pods when it was.
    """

    upgraded: list[str]
    stopped_by: str
    running: dict[str, str]
    fewest: int | None
    drained: dict[str, bool]


def roll_out(cluster: Cluster, members: Sequence[Member], profile: Profile, offer: Offer,
             within: Callable[[Member], AbstractContextManager[object]] = contextlib.nullcontext) -> RolloutResult:
    """Upgrades the nodes to what is on offer, one at a time; one that does not become Ready is rolled back.

    The rollout ends with that one. What is on offer is fetched and deployed within a context of each node's own.
    """
    upgraded: list[str] = []
    drained: dict[str, bool] = {}
    stopped_by = ""
    with NodeWatch(cluster.api) as watch:
        watch.count()
        for member in members:
            drained[member.name] = _drain(cluster, member)
            stopped_by = _upgrade(member, profile, offer, within)
            cluster.api.cordon(member.name, cordoned=False)
            if stopped_by:
                break
            upgraded.append(member.name)
        return RolloutResult(upgraded=upgraded, stopped_by=stopped_by, fewest=watch.fewest, drained=drained, running={
            member.name: upgrade_tool(member.machine, profile.upgrades).running() for member in members})  # fmt: skip


@step("cordon and drain")
def _drain(cluster: Cluster, member: Member) -> bool:
    """Has nothing new come onto the node and what is there leave; returns whether it did."""
    cluster.api.cordon(member.name)
    for pod in cluster.api.pods(member.name):
        cluster.api.evict(pod.name)
    try:
        return member.machine.wait_until(lambda: not cluster.api.pods(member.name), "the node is drained",
                                         within=_DRAINING, every=1.0)  # fmt: skip
    except GuestFailure:
        return False


@step("upgrade of a node")
def _upgrade(member: Member, profile: Profile, offer: Offer,
             within: Callable[[Member], AbstractContextManager[object]]) -> str:  # fmt: skip
    """Upgrades one node; returns why that failed, in which case the node runs what it ran before."""
    upgrade = upgrade_tool(member.machine, profile.upgrades)
    before = upgrade.running()
    try:
        with within(member):
            upgrade.apply(offer)
        member.machine.reboot()
        lifecycle.await_ready(member, profile)
    except GuestFailure as error:
        if upgrade.running() != before:
            upgrade.roll_back()
            member.machine.reboot()
        lifecycle.await_ready(member, profile)
        return f"{member.name}: {error.happened}"
    return ""


@dataclass(frozen=True, kw_only=True)
class JoinedFleet:
    """Machines that are Ready nodes, and the seconds that each took from its own power-on."""

    members: Sequence[Member]
    seconds: Sequence[float]

    def share(self, part: float) -> float:
        """Returns the seconds after which that part of them was Ready: 0.9 is the P90, a time that one of them took."""
        return sorted(self.seconds)[math.ceil(part * len(self.seconds)) - 1]


@contextlib.contextmanager
def joined_fleet(cluster: Cluster, profile: Profile, make: Callable[..., AbstractContextManager[Machine]],
                 count: int, *, memory: int) -> Iterator[JoinedFleet]:
    """So many new machines, with so much memory each (MiB), that are Ready nodes; powered on side by side.

    Raises:
        NotReady: one of them does not become one.
    """
    members: list[Member] = []

    def expect(machine: Machine) -> None:
        members.append(cluster.expect(machine))

    machines = [make(f"node-{number}-of-{count}", guest_memory=memory, prepare=expect)
                for number in range(1, count + 1)]  # fmt: skip
    with NodeWatch(cluster.api) as watch, fleet(machines):
        for member in members:
            lifecycle.await_ready(member, profile)
        for member in members:
            member.machine.wait_until(functools.partial(watch.saw, member.name), "the watch sees it",
                                      within=profile.cluster.ready_within)  # fmt: skip
        seconds = [watch.ready_at[member.name] - member.machine.boot.power_on for member in members]
        yield JoinedFleet(members=members, seconds=seconds)


#: How often one looks (seconds): so exact are its times.
_EVERY = 0.25


class NodeWatch:
    """Looks at all nodes again and again for as long as the context lasts.

    `ready_at` is when each node was first seen Ready (host's monotonic clock, seconds).
    """

    def __init__(self, api: Api) -> None:
        self.ready_at: dict[str, float] = {}
        self.fewest: int | None = None
        self._api = api
        self._counts = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="node-watch", daemon=True)

    def __enter__(self) -> Self:
        """Starts to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Looks no more."""
        self._ended.set()
        self._thread.join()

    def saw(self, name: str) -> bool:
        """Tells whether that node was seen Ready."""
        return name in self.ready_at

    def count(self) -> None:
        """From now on `fewest` is the smallest number of nodes that were Ready at one time."""
        self._counts = True

    def _look(self) -> None:
        while not self._ended.wait(_EVERY):
            try:
                ready = [node.name for node in self._api.nodes() if node.is_ready]
            except HostError:
                continue  # it is asked again; whoever needs an answer asks for himself
            for name in ready:
                self.ready_at.setdefault(name, time.monotonic())
            if self._counts:
                self.fewest = min(len(ready), len(ready) if self.fewest is None else self.fewest)
