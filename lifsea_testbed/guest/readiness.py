"""Readiness has depths: a runtime that answers, a kubelet that is well, a pod that runs, a node that is Ready.

Each depth is told by what it is to the next: `why_not` says in one line what is missing, and where something deeper
explains it, says that instead.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol, TypeVar

from lifsea_testbed.errors import GuestFailure, WaitTimedOut
from lifsea_testbed.guest import cri, kubelet
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.sanitize import first_line

#: The names of the static pod that the test bed has a kubelet run, and of its container.
STATIC_POD = "lifsea-testbed"
#: How often one looks (seconds): each look is several questions.
_EVERY = 1.0
_LONGEST = 500
T = TypeVar("T")


class Node(Protocol):
    """A machine, as far as readiness is concerned: it is asked, and waited for."""

    @property
    def guest(self) -> Guest:
        """The questions."""
        ...

    def wait_until(self, question: Callable[[], T], what: str, *, within: float, every: float = ...) -> T:
        """Returns the first answer that is true; raises WaitTimedOut if none is within so many seconds."""
        ...


class Depth(enum.StrEnum):
    """How deep readiness goes, the first first."""

    CONTAINERD = "containerd"
    KUBELET = "kubelet"
    STATIC_POD = "static pod"
    NODE = "node"
    POD = "pod"


class NotReady(GuestFailure):
    """A node did not become ready: how deep it got, and why not deeper, is the first line."""

    def __init__(self, depth: Depth, why: str, *, evidence: str = "") -> None:
        super().__init__(f"{depth} not ready: {first_line(why)[:_LONGEST]}", evidence=evidence,
                         expected="each depth of readiness (docs/kubelet.md)")
        self.depth = depth


def reached(node: Node, profile: Profile, depth: Depth) -> bool:
    """Returns when the node is ready to that depth.

    Raises:
        NotReady: it is not, within the time that the profile allows; or it is set so that it never will be.
    """
    await_(node, depth, lambda: _SIGNS[depth](node), lambda: _TROUBLES[depth](node, profile), profile,
           within=profile.boot.ready_within)  # fmt: skip
    if trouble := _TROUBLES[depth](node, profile):
        raise explained(node, profile, depth, trouble)
    return True


def await_(node: Node, depth: Depth, is_ready: Callable[[], bool], why: Callable[[], str], profile: Profile, *,
           within: float) -> None:
    """Returns when it is ready, within so many seconds on real hardware; `why` is asked only if it is not.

    Raises:
        NotReady: it is not; what explains it is looked for from the first depth on.
    """
    try:
        came = node.wait_until(is_ready, f"{depth} is ready", within=within, every=_EVERY)
    except WaitTimedOut:
        came = False
    if not came:
        raise explained(node, profile, depth, why())


def explained(node: Node, profile: Profile, depth: Depth, why: str) -> NotReady:
    """Returns the error for a trouble at a depth: where an earlier depth is in trouble, it is that which is told."""
    for earlier, trouble in _EXPLANATIONS.items():
        if earlier is depth:
            break
        if found := trouble(node, profile):
            return NotReady(earlier, found, evidence=journals(node))
    return NotReady(depth, why, evidence=journals(node))


def journals(node: Node) -> str:
    """Returns the end of the journals of kubelet and containerd."""
    units = (kubelet.KUBELET, kubelet.CONTAINERD)
    return "\n".join(f"--- {unit}\n{node.guest.kubernetes.journal_of(unit)}" for unit in units)


def _containerd(node: Node, profile: Profile) -> str:
    try:
        runtime = node.guest.kubernetes.runtime()
    except cri.Unavailable as error:
        return f"{error.happened}{_instead(node)}"
    if runtime.is_ready:
        return ""
    unmet = "; ".join(str(one) for one in runtime.conditions if not one.is_met and one.name.endswith("Ready"))
    networks = profile.cluster.networks
    empty = "" if node.guest.kubernetes.files_in(networks) else f"; {networks} is empty"
    return f"{unmet or 'it reports no conditions'}{empty}"


def _instead(node: Node) -> str:
    """What may be the reason for a runtime that does not answer."""
    sockets = node.guest.kubernetes.runtime_sockets()
    service = node.guest.kubernetes.service(kubelet.CONTAINERD)
    complaint = "" if service.runs else node.guest.kubernetes.complaint(kubelet.CONTAINERD)
    return "".join([
        f"; containerd listens at {', '.join(sockets)}" if sockets else "",
        "" if service.runs else f"; {service.name} is {service.state}", f": {complaint}" if complaint else "",
    ])  # fmt: skip


def _kubelet(node: Node, profile: Profile) -> str:
    service = node.guest.kubernetes.service(kubelet.KUBELET)
    if not service.runs:
        complaint = node.guest.kubernetes.complaint(kubelet.KUBELET)
        return f"{service.name} is {service.state}, started {service.restarts + 1} times: {complaint}"
    health = node.guest.kubelet_health()
    if health != "ok":
        complaint = node.guest.kubernetes.complaint(kubelet.KUBELET)
        return f"healthz answers {first_line(health) if health else 'nothing'}: {complaint}"
    return _disagreement(node) or _swap(node)


def _disagreement(node: Node) -> str:
    """What kubelet, containerd and kernel do not agree on about control groups."""
    if (version := node.guest.kubernetes.cgroup_version()) != 2:
        return f"control groups are of version {version}, not 2"
    ours = node.guest.kubernetes.cgroup_driver()
    try:
        theirs = node.guest.kubernetes.runtime().systemd_cgroups
    except cri.Unavailable:
        return ""
    if theirs is None or theirs == (ours == "systemd"):
        return ""
    return f"its cgroup driver is {ours}, and containerd's is {'systemd' if theirs else 'cgroupfs'}"


def _swap(node: Node) -> str:
    swaps = node.guest.kubernetes.swaps()
    return f"swap is on: {', '.join(swaps)}" if swaps else ""


def _hindrance(node: Node, profile: Profile) -> str:
    """What keeps any pod from running, whether a static one was asked for or not."""
    if full := node.guest.kubernetes.full_var():
        return full
    pause = profile.cluster.pause
    if not pause or pause in (images := node.guest.kubernetes.images_on_board()):
        return ""
    return f"{pause} is not among the images on board: {', '.join(images) or 'there are none'}"


def _static_pod(node: Node, profile: Profile) -> str:
    if _pod_runs(node):
        return ""
    if hindrance := _hindrance(node, profile):
        return hindrance
    about = r"(?i)sandbox|container|image|cgroup|manifest|evict"
    complaint = node.guest.kubernetes.complaint
    why = complaint(kubelet.KUBELET, about) or complaint(kubelet.CONTAINERD, about)
    return why or "the kubelet runs no container of it"


def _runtime_is_ready(node: Node) -> bool:
    try:
        return node.guest.kubernetes.runtime().is_ready
    except cri.Unavailable:
        return False


def _pod_runs(node: Node) -> bool:
    try:
        return any(one.state is cri.State.RUNNING for one in node.guest.kubernetes.containers(STATIC_POD))
    except cri.Unavailable:
        return False


#: What one look at a depth costs little to see; and what is wrong with it, which costs more.
_SIGNS: dict[Depth, Callable[[Node], bool]] = {
    Depth.CONTAINERD: _runtime_is_ready, Depth.STATIC_POD: _pod_runs,
    Depth.KUBELET: lambda node: node.guest.kubelet_health() == "ok",
}  # fmt: skip
_TROUBLES: dict[Depth, Callable[[Node, Profile], str]] = {
    Depth.CONTAINERD: _containerd, Depth.KUBELET: _kubelet, Depth.STATIC_POD: _static_pod,
}  # fmt: skip
#: What explains a later depth: there, nobody may have asked for a static pod.
_EXPLANATIONS = _TROUBLES | {Depth.STATIC_POD: _hindrance}
