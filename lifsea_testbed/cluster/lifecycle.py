"""The life of a node: it joins, runs a pod, loses the API server, loses its kubelet; and why it is not Ready."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from lifsea_testbed.cluster import authority
from lifsea_testbed.cluster.api import Api
from lifsea_testbed.cluster.cluster import Cluster, Member
from lifsea_testbed.cluster.control_plane import GRACE
from lifsea_testbed.cluster.objects import InterruptedNode, JoinedNode, Node, Pod, PodRun
from lifsea_testbed.ecs.instance import METADATA_ADDRESS
from lifsea_testbed.errors import GuestFailure, NotJudged, Reason
from lifsea_testbed.guest.cri import ContainerState
from lifsea_testbed.guest.kubelet import KUBELET
from lifsea_testbed.guest.readiness import NotReady, ReadinessLevel, await_condition, journals, not_ready
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile

#: How long the controllers may take to notice a silent node, or its return, after the grace (seconds on the host).
_NOTICING = 60.0
#: How long the deletion of a pod may take (seconds on real hardware): a kubelet removes sandboxes once a minute.
_GOING = 90.0
_EVERY = 0.5
_LOOKED_UP = "lifsea-testbed-looked-up"
#: The names of the pods.
_RAN, _KEPT = "lifsea-testbed-ran", "lifsea-testbed-kept"
#: A clock that is wrong by more than this (seconds) fails the node: certificates and heartbeats depend on it.
MOST_SKEW = 60.0
_ABOUT_THE_API = r"(?i)x509|unauthorized|certificate|register|api ?server|lookup|connection refused|node \""


def await_ready(member: Member, profile: Profile) -> Node:
    """Returns the node once it is Ready.

    Raises:
        NotReady: it is not, within the time that the profile allows.
    """
    await_condition(member.machine, ReadinessLevel.NODE, lambda: is_ready(member),
                    lambda: node_trouble(member, profile), profile, within=profile.cluster.ready_within)  # fmt: skip
    node = member.node
    if node is None:
        raise NotReady(ReadinessLevel.NODE, "the node is gone again", evidence=journals(member.machine))
    return node


@contextlib.contextmanager
def joined_node(cluster: Cluster, profile: Profile, create: Callable[[MachineSpec], AbstractContextManager[Machine]]) \
        -> Iterator[tuple[Member, JoinedNode]]:
    """A new machine, once it is a Ready node, and its observation; `create` is that of a MachineFactory.

    Raises:
        NotReady: it does not become one.
    """
    members: list[Member] = []
    spec = MachineSpec(name="node", prepare=lambda machine: members.append(cluster.expect(machine)))
    with create(spec) as machine:
        node = await_ready(members[0], profile)
        seconds = time.monotonic() - machine.boot.power_on
        if wrong := clock_trouble(members[0]):
            raise NotReady(ReadinessLevel.NODE, wrong, evidence=journals(machine))
        yield members[0], JoinedNode(machine=machine, node=node, seconds=seconds, runs=_runs(machine),
                                     labels=members[0].labels, checks=cluster.api.checks(node.name))  # fmt: skip


def run_pod(cluster: Cluster, member: Member, profile: Profile) -> PodRun:
    """Runs a pod on the node, reads its log, and deletes it.

    Raises:
        NotReady: the pod does not run, or its network does not work.
        NotJudged: the profile names no image for pods.
    """
    prepare_image(member, profile)
    started = time.monotonic()
    pod = start_pod(cluster, member, profile, _RAN)
    seconds = time.monotonic() - started
    answer = _await_log(cluster, member, profile, _RAN)
    cluster.api.delete_pod(_RAN)
    return PodRun(machine=member.machine, node=member.name, pod=pod, seconds=seconds, answer=answer)


def prepare_image(member: Member, profile: Profile) -> None:
    """Imports the image for pods into the node's runtime, unless it is there.

    Raises:
        NotJudged: the profile names none.
    """
    if not profile.cluster.workload:
        raise NotJudged("the profile names no image for pods (cluster.workload)", Reason.PROFILE)
    runtime = member.machine.guest.runtime
    if profile.cluster.workload not in runtime.images():
        runtime.prepare_workload()


def start_pod(cluster: Cluster, member: Member, profile: Profile, name: str) -> Pod:
    """Starts a pod on a node, by the node's name, and returns it once it runs. Call `prepare_image` before.

    Raises:
        NotReady: it does not run.
    """
    cluster.api.create_pod(_manifest(name, member.name, profile.cluster.workload))
    await_condition(member.machine, ReadinessLevel.POD, lambda: not pod_trouble(cluster.api, name),
                    lambda: pod_trouble(cluster.api, name), profile, within=profile.boot.ready_within)  # fmt: skip
    pod = cluster.api.pod(name)
    if pod is None:
        raise NotReady(ReadinessLevel.POD, "the pod is no longer in the API", evidence=journals(member.machine))
    return pod


def interrupt(cluster: Cluster, member: Member, profile: Profile) -> InterruptedNode:
    """Cuts a node that runs a pod off the API server, restores it, then stops its kubelet and starts it again."""
    start_pod(cluster, member, profile, _KEPT)
    before = _containers(member, _KEPT)
    member.relay.cut()
    ready_while_cut, kept_while_cut = _becomes(member, ready=False), before == _containers(member, _KEPT)
    member.relay.restore()
    ready_after_cut, kept_after_cut = _becomes(member, ready=True), before == _containers(member, _KEPT)
    trouble = pod_trouble(cluster.api, _KEPT)
    member.machine.guest.services.stop(KUBELET)
    ready_while_stopped = _becomes(member, ready=False)
    member.machine.guest.services.restart(KUBELET)
    return InterruptedNode(
        machine=member.machine, ready_while_cut=ready_while_cut, kept_while_cut=kept_while_cut,
        ready_after_cut=ready_after_cut, kept_after_cut=kept_after_cut and not trouble,
        ready_while_stopped=ready_while_stopped, ready_after_stop=_becomes(member, ready=True),
        left=_remains(cluster, member),
    )  # fmt: skip


def _runs(machine: Machine) -> dict[str, str]:
    guest = machine.guest
    return {"os": guest.system.os_release().get("PRETTY_NAME", ""), "kernel": guest.kernel.release(),
            "kubelet": guest.kubelet.version(), "runtime": guest.runtime.version()}


def _remains(cluster: Cluster, member: Member) -> list[str]:
    """The remains of the deleted pod, once it had the time to disappear."""
    def found() -> list[str]:
        pod = cluster.api.pod(_RAN)
        return [*([f"the pod is {pod.phase}"] if pod else []), *sorted(_containers(member, _RAN))]

    with contextlib.suppress(GuestFailure):
        _await(member.machine, lambda: not found(), "the pod is gone", _GOING)
    return found()


def _manifest(name: str, node: str, image: str) -> dict[str, object]:
    script = f"echo {_LOOKED_UP}; wget -q -T 20 -O - http://{METADATA_ADDRESS}/latest/meta-data/instance-id; echo; " \
          "exec sleep 2147483"  # fmt: skip
    container = {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script]}
    return {"metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1,
                     "automountServiceAccountToken": False}}  # fmt: skip


def _await_log(cluster: Cluster, member: Member, profile: Profile, name: str) -> str:
    """Returns the metadata service's answer from the pod's log, which is read through the API server.

    Raises:
        NotReady: the log cannot be read, or the pod had no answer.
    """
    def written() -> list[str]:
        return cluster.api.log(name).partition(_LOOKED_UP)[2].split()

    with contextlib.suppress(GuestFailure):
        _await(member.machine, lambda: bool(written()), "the pod writes its log", profile.boot.ready_within)
    if member.machine.instance.id not in (words := written()):
        why = f"its network is dead: {' '.join(words)}" if words else "its log cannot be read, or is empty"
        raise not_ready(member.machine, profile, ReadinessLevel.POD, f"{why} (it requested {METADATA_ADDRESS})")
    return words[0]


def _containers(member: Member, name: str) -> set[str]:
    found = member.machine.guest.runtime.containers(name)
    return {one.id for one in found if one.state is ContainerState.RUNNING}


def _becomes(member: Member, *, ready: bool) -> bool:
    """Waits until the node is Ready, or not Ready, as wanted; returns whether it is Ready in the end."""
    with contextlib.suppress(GuestFailure):
        _await(member.machine, lambda: is_ready(member) == ready, "the node changes", GRACE + _NOTICING)
    return is_ready(member)


def _await(machine: Machine, condition: Callable[[], bool], what: str, within: float) -> None:
    machine.wait_until(condition, what, within=within, every=_EVERY)


def is_ready(member: Member) -> bool:
    """Whether the machine is a Ready node, has reported since it was booted, and has no bad condition."""
    node = member.node
    return node is not None and node.is_ready and not node.why_not and node.boot == member.machine.boot_id


def node_trouble(member: Member, profile: Profile) -> str:
    """Returns the reasons why the machine is not a Ready node; empty if it is one."""
    node = member.node
    if is_ready(member):
        return ""
    reasons = [clock_trouble(member), certificate_trouble(member, profile)]
    silent = "the kubelet has reported nothing since the machine was booted"
    registered = "the kubelet has not registered the node" if node is None else node.why_not or silent
    complaint = member.machine.guest.services.last_error(KUBELET, _ABOUT_THE_API)
    return "; ".join(filter(None, [*reasons, ": ".join(filter(None, [registered, complaint]))]))


def clock_trouble(member: Member) -> str:
    """Returns by how much the machine's clock is wrong; empty if it is right."""
    ahead = member.machine.guest.clock.ahead()
    if abs(ahead) <= MOST_SKEW:
        return ""
    return f"its clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"


def certificate_trouble(member: Member, profile: Profile) -> str:
    """Returns that the kubelet's certificate has expired; empty if it has not, or cannot be read."""
    place = profile.cluster.kubeconfig
    try:
        users = json.loads(member.machine.guest.files.read(place) or "")["users"]
        end = authority.expiry(base64.b64decode(users[0]["user"]["client-certificate-data"]))
    except (ValueError, LookupError, TypeError):
        return ""
    return f"the certificate in {place} expired on {end:%Y-%m-%d at %H:%M}" \
        if end < datetime.datetime.now(datetime.UTC) else ""  # fmt: skip


def pod_trouble(api: Api, name: str, *, phases: Sequence[str] = ("Running",)) -> str:
    """Returns the reason why a pod does not run; empty if it runs."""
    pod = api.pod(name)
    if pod is None:
        return "the pod is no longer in the API"
    if pod.phase in phases:
        return ""
    warnings = [event for event in api.events(name) if not event.startswith(("Scheduled", "Pulled", "Created"))]
    return "; ".join(filter(None, [f"the pod is {pod.phase}", pod.why, *warnings[-1:]]))
