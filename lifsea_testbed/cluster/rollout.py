"""Several nodes at once: machines that join together, and a rolling upgrade over all of them.

A rolling upgrade cordons, drains, upgrades, reboots and uncordons node after node until one fails, as a controller in
the cluster would: through the API of the cluster and the upgrade tool of the OS alone.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

from lifsea_testbed.cluster import lifecycle
from lifsea_testbed.cluster.api import Api
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.errors import GuestFailure, HostError
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.machine.fleet import fleet
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.steps import step
from lifsea_testbed.upgrade.offer import Offer
from lifsea_testbed.upgrade.tools import NO_EXTRA_TOOLS, MakeUpgradeTool, UpgradeTool, upgrade_tool

#: How long a node may take to drain, on real hardware (seconds): a kubelet removes sandboxes once a minute.
_DRAINING = 120.0
#: The interval of the watch, and so the resolution of its times (seconds).
_EVERY = 0.25
#: How long the watch may take to end (seconds): a request to the API server that does not answer ends by itself.
_STOPPING = 30.0


@dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """A finished rollout: the nodes that were upgraded, why it stopped, the image that each node runs in the end.

    `fewest` is the smallest number of nodes that were Ready at one time; `drained` is whether each node that was
    upgraded had no pods left by then.
    """

    upgraded: list[str]
    stopped_by: str
    running: dict[str, str]
    fewest: int | None
    drained: dict[str, bool]


def roll_out(cluster: Cluster, members: Sequence[Member], profile: Profile, offer: Offer,
             within: Callable[[Member], AbstractContextManager[object]] = contextlib.nullcontext,
             tools: Mapping[str, MakeUpgradeTool] = NO_EXTRA_TOOLS) -> RolloutResult:
    """Upgrades the nodes to the offer, one at a time; one that fails is rolled back and ends the rollout.

    `within` is entered for each node while the offer is fetched and deployed there; `tools` are upgrade tools beside
    the built-in ones.
    """
    upgraded: list[str] = []
    drained: dict[str, bool] = {}
    stopped_by = ""

    def tool_of(member: Member) -> UpgradeTool:
        return upgrade_tool(member.machine, profile.upgrades, tools)

    with NodeWatch(cluster.api) as watch:
        watch.count()
        for member in members:
            drained[member.name] = _drain(cluster, member)
            stopped_by = _upgrade(member, tool_of(member), profile, offer, within)
            cluster.api.cordon(member.name, cordoned=False)
            if stopped_by:
                break
            upgraded.append(member.name)
        return RolloutResult(upgraded=upgraded, stopped_by=stopped_by, fewest=watch.fewest, drained=drained, running={
            member.name: tool_of(member).running() for member in members})  # fmt: skip


@step("cordon and drain")
def _drain(cluster: Cluster, member: Member) -> bool:
    """Cordons the node and evicts its pods; returns whether all of them left in time."""
    cluster.api.cordon(member.name)
    for pod in cluster.api.pods(member.name):
        cluster.api.evict(pod.name)
    try:
        return member.machine.wait_until(lambda: not cluster.api.pods(member.name), "the node is drained",
                                         within=_DRAINING, every=1.0)  # fmt: skip
    except GuestFailure:
        return False


@step("upgrade of a node")
def _upgrade(member: Member, tool: UpgradeTool, profile: Profile, offer: Offer,
             within: Callable[[Member], AbstractContextManager[object]]) -> str:  # fmt: skip
    """Upgrades one node; returns why that failed and leaves the node with its old image then, else an empty string."""
    before = tool.running()
    try:
        with within(member):
            tool.apply(offer)
        member.machine.reboot()
        lifecycle.await_ready(member, profile)
    except GuestFailure as error:
        if tool.running() != before:
            tool.roll_back()
            member.machine.reboot()
        lifecycle.await_ready(member, profile)
        return f"{member.name}: {error.happened}"
    return ""


@dataclass(frozen=True, kw_only=True)
class JoinedFleet:
    """Machines that joined together and are Ready, and the seconds of each from its own power-on until then."""

    members: Sequence[Member]
    seconds: Sequence[float]

    def share(self, part: float) -> float:
        """Returns the seconds after which that share of them was Ready: 0.9 is the P90, the time of one of them."""
        return sorted(self.seconds)[math.ceil(part * len(self.seconds)) - 1]


@contextlib.contextmanager
def joined_fleet(cluster: Cluster, profile: Profile, create: Callable[[MachineSpec], AbstractContextManager[Machine]],
                 count: int, *, memory: int) -> Iterator[JoinedFleet]:
    """Powers on `count` new machines side by side, with `memory` each (MiB); yields them once all are Ready nodes.

    Raises:
        NotReady: one of them does not become Ready.
    """
    members: list[Member] = []

    def expect(machine: Machine) -> None:
        members.append(cluster.expect(machine))

    machines = [create(MachineSpec(name=f"node-{number}-of-{count}", guest_memory=memory, prepare=expect))
                for number in range(1, count + 1)]  # fmt: skip
    with NodeWatch(cluster.api) as watch, fleet(machines):
        for member in members:
            lifecycle.await_ready(member, profile)
        for member in members:
            member.machine.wait_until(functools.partial(watch.has_seen, member.name), "the watch sees the node Ready",
                                      within=profile.cluster.ready_within)  # fmt: skip
        seconds = [watch.ready_at[member.name] - member.machine.boot.power_on for member in members]
        yield JoinedFleet(members=members, seconds=seconds)


class NodeWatch:
    """Polls all nodes as long as the context lasts.

    `ready_at` is when each node was first Ready (host's monotonic clock, seconds); `fewest` is the smallest number of
    nodes that were Ready at one time since `count` was called.
    """

    def __init__(self, api: Api) -> None:
        self.ready_at: dict[str, float] = {}
        self.fewest: int | None = None
        self._api = api
        self._counts = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="node-watch", daemon=True)

    def __enter__(self) -> Self:
        """Starts the polling thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the polling thread."""
        self._ended.set()
        self._thread.join(_STOPPING)

    def has_seen(self, name: str) -> bool:
        """Returns whether that node was ever Ready."""
        return name in self.ready_at

    def count(self) -> None:
        """Starts to count the nodes that are Ready."""
        self._counts = True

    def _poll(self) -> None:
        while not self._ended.wait(_EVERY):
            try:
                ready = [node.name for node in self._api.nodes() if node.is_ready]
            except HostError:
                continue  # the next poll tries again; a test that needs the API fails by its own request
            for name in ready:
                self.ready_at.setdefault(name, time.monotonic())
            if self._counts:
                self.fewest = min(len(ready), len(ready) if self.fewest is None else self.fewest)
