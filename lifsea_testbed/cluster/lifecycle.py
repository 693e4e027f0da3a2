"""The life of a node, as its cluster sees it: it joins, runs a pod, loses the API server, loses its kubelet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from lifsea_testbed.cluster import diagnosis
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.cluster.control_plane import GRACE
from lifsea_testbed.cluster.objects import Node, Pod
from lifsea_testbed.cluster.seen import Interrupted, Joined, Ran
from lifsea_testbed.ecs.instance import METADATA_ADDRESS
from lifsea_testbed.errors import GuestFailure, NotJudged
from lifsea_testbed.guest.cri import ContainerState
from lifsea_testbed.guest.kubelet import KUBELET
from lifsea_testbed.guest.readiness import NotReady, ReadinessLevel, await_condition, journals, not_ready
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile

#: How long the controllers may take to see that a node is silent, or back, beside its grace (seconds on the host).
_NOTICING = 60.0
#: How long a pod may take to go (seconds on real hardware): a kubelet removes sandboxes once a minute.
_GOING = 90.0
_EVERY = 0.5
_LOOKED_UP = "lifsea-testbed-looked-up"
#: The names of the pods.
_RAN, _KEPT = "lifsea-testbed-ran", "lifsea-testbed-kept"


def await_ready(member: Member, profile: Profile) -> Node:
    """Returns the node once it is Ready.

    Raises:
        NotReady: it is not, within the time that the profile allows.
    """
    await_condition(member.machine, ReadinessLevel.NODE, lambda: diagnosis.is_ready(member),
                    lambda: diagnosis.node_trouble(member, profile), profile,
                    within=profile.cluster.ready_within)  # fmt: skip
    node = member.node
    if node is None:
        raise NotReady(ReadinessLevel.NODE, "the node is gone again", evidence=journals(member.machine))
    return node


@contextlib.contextmanager
def joined(cluster: Cluster, profile: Profile,
           create: Callable[[MachineSpec], AbstractContextManager[Machine]]) -> Iterator[tuple[Member, Joined]]:
    """A new machine that is a Ready node, and what was seen of it.

    Raises:
        NotReady: it does not become one.
    """
    members: list[Member] = []
    spec = MachineSpec(name="node", prepare=lambda machine: members.append(cluster.expect(machine)))
    with create(spec) as machine:
        node = await_ready(members[0], profile)
        seconds = time.monotonic() - machine.boot.power_on
        if wrong := diagnosis.clock_trouble(members[0]):
            raise NotReady(ReadinessLevel.NODE, wrong, evidence=journals(machine))
        yield members[0], Joined(machine=machine, node=node, seconds=seconds, runs=_runs(machine),
                                 labels=members[0].labels, checks=cluster.api.checks(node.name))  # fmt: skip


def run(cluster: Cluster, member: Member, profile: Profile) -> Ran:
    """Runs a pod on the node, reads its log, and has it deleted.

    Raises:
        NotReady: it does not run, or its network is dead.
        NotJudged: the profile knows no image for it.
    """
    prepare(member, profile)
    started = time.monotonic()
    pod = start_pod(cluster, member, profile, _RAN)
    seconds = time.monotonic() - started
    answer = _await_log(cluster, member, profile, _RAN)
    cluster.api.delete_pod(_RAN)
    return Ran(machine=member.machine, node=member.name, pod=pod, seconds=seconds, answer=answer)


def prepare(member: Member, profile: Profile) -> None:
    """Makes the image of pods known to the node's runtime, unless it is.

    Raises:
        NotJudged: the profile knows none.
    """
    if not profile.cluster.workload:
        raise NotJudged("the profile does not know an image that a pod can be made of (cluster.workload)")
    runtime = member.machine.guest.runtime
    if profile.cluster.workload not in runtime.images():
        runtime.prepare_workload()


def start_pod(cluster: Cluster, member: Member, profile: Profile, name: str) -> Pod:
    """Returns a pod that runs on that node, put there by its name; its image is on board (`prepare`).

    Raises:
        NotReady: it does not run.
    """
    cluster.api.create_pod(_manifest(name, member.name, profile.cluster.workload))
    await_condition(member.machine, ReadinessLevel.POD, lambda: not diagnosis.pod_trouble(cluster.api, name),
                    lambda: diagnosis.pod_trouble(cluster.api, name), profile,
                    within=profile.boot.ready_within)  # fmt: skip
    pod = cluster.api.pod(name)
    if pod is None:
        raise NotReady(ReadinessLevel.POD, "the API has no such pod any more", evidence=journals(member.machine))
    return pod


def interrupt(cluster: Cluster, member: Member, profile: Profile) -> Interrupted:
    """Takes the API server from a node that runs a pod, gives it back, then stops the kubelet and starts it again."""
    start_pod(cluster, member, profile, _KEPT)
    before = _containers(member, _KEPT)
    member.relay.cut()
    ready_while_cut, kept_while_cut = _becomes(member, ready=False), before == _containers(member, _KEPT)
    member.relay.restore()
    ready_after_cut, kept_after_cut = _becomes(member, ready=True), before == _containers(member, _KEPT)
    trouble = diagnosis.pod_trouble(cluster.api, _KEPT)
    member.machine.guest.services.stop(KUBELET)
    ready_while_stopped = _becomes(member, ready=False)
    member.machine.guest.services.restart(KUBELET)
    return Interrupted(
        machine=member.machine, ready_while_cut=ready_while_cut, kept_while_cut=kept_while_cut,
        ready_after_cut=ready_after_cut, kept_after_cut=kept_after_cut and not trouble,
        ready_while_stopped=ready_while_stopped, ready_after_stop=_becomes(member, ready=True),
        left=_left(cluster, member),
    )  # fmt: skip


def _runs(machine: Machine) -> dict[str, str]:
    guest = machine.guest
    return {"os": guest.system.os_release().get("PRETTY_NAME", ""), "kernel": guest.kernel.release(),
            "kubelet": guest.kubelet.version(), "runtime": guest.runtime.version()}


def _left(cluster: Cluster, member: Member) -> list[str]:
    """What is left of the pod that was deleted, once it had the time to go."""
    def found() -> list[str]:
        pod = cluster.api.pod(_RAN)
        return [*([f"the pod is {pod.phase}"] if pod else []), *sorted(_containers(member, _RAN))]

    with contextlib.suppress(GuestFailure):
        _await(member.machine, lambda: not found(), "the pod is gone", _GOING)
    return found()


def _manifest(name: str, node: str, image: str) -> dict[str, object]:
    ask = f"echo {_LOOKED_UP}; wget -q -T 20 -O - http://{METADATA_ADDRESS}/latest/meta-data/instance-id; echo; " \
          "exec sleep 2147483"  # fmt: skip
    container = {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", ask]}
    return {"metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1,
                     "automountServiceAccountToken": False}}  # fmt: skip


def _await_log(cluster: Cluster, member: Member, profile: Profile, name: str) -> str:
    """Returns the log, read through the API server, once it holds what the pod got over its network.

    Raises:
        NotReady: the log cannot be read, or the pod got nothing.
    """
    def written() -> list[str]:
        return cluster.api.log(name).partition(_LOOKED_UP)[2].split()

    with contextlib.suppress(GuestFailure):
        _await(member.machine, lambda: bool(written()), "the pod writes its log", profile.boot.ready_within)
    if member.machine.instance.id not in (words := written()):
        why = f"its network is dead: {' '.join(words)}" if words else "its log cannot be read, or tells nothing"
        raise not_ready(member.machine, profile, ReadinessLevel.POD, f"{why} (it asked {METADATA_ADDRESS})")
    return words[0]


def _containers(member: Member, name: str) -> set[str]:
    found = member.machine.guest.runtime.containers(name)
    return {one.id for one in found if one.state is ContainerState.RUNNING}


def _becomes(member: Member, *, ready: bool) -> bool:
    """Returns whether the node is Ready, once it is as wanted or had the time to be."""
    with contextlib.suppress(GuestFailure):
        _await(member.machine, lambda: diagnosis.is_ready(member) == ready, "the node changes", GRACE + _NOTICING)
    return diagnosis.is_ready(member)


def _await(machine: Machine, question: Callable[[], bool], what: str, within: float) -> None:
    machine.wait_until(question, what, within=within, every=_EVERY)
