"""A rolling upgrade: node after node is cordoned, drained, upgraded, rebooted and let in again, until one fails.

It is what a controller in the cluster would do, by the API of the cluster and the operations of the OS alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lifsea_testbed.cluster import lifecycle
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.cluster.watch import NodeWatch
from lifsea_testbed.errors import GuestFailure
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.steps import step
from lifsea_testbed.upgrade.offer import Offer
from lifsea_testbed.upgrade.tools import way

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
            member.name: way(member.machine, profile.upgrades).running() for member in members})  # fmt: skip


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
    upgrade = way(member.machine, profile.upgrades)
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
