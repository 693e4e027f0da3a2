"""Readiness has depths: a runtime that answers, a kubelet that is well, a pod that runs, a node that is Ready.

Each depth is told by what it is to the next: `why_not` says in one line what is missing, and where something deeper
explains it, says that instead.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from lifsea_testbed.errors import GuestFailure, WaitTimedOut
from lifsea_testbed.guest import cri, kubelet
from lifsea_testbed.machine import Machine
from lifsea_testbed.profile import Profile
from lifsea_testbed.text import first_line

#: The names of the static pod that the test bed has a kubelet run, and of its container.
STATIC_POD = "lifsea-testbed"
#: How often one looks (seconds): each look is several questions.
_EVERY = 1.0
_LONGEST = 500


class Depth(enum.StrEnum):
    """How deep readiness goes, the first first."""

    CONTAINERD = "containerd"
    KUBELET = "kubelet"
    STATIC_POD = "static pod"
    NODE = "node"
    POD = "pod"


class NotReady(GuestFailure):
    """A machine did not become ready: how deep it got, and why not deeper, is the first line."""

    def __init__(self, depth: Depth, why: str, *, evidence: str = "") -> None:
        super().__init__(f"{depth} not ready: {first_line(why)[:_LONGEST]}", evidence=evidence,
                         expected="each depth of readiness (docs/kubelet.md)")
        self.depth = depth


def reached(machine: Machine, profile: Profile, depth: Depth) -> bool:
    """Returns when the machine is ready to that depth.

    Raises:
        NotReady: it is not, within the time that the profile allows; or it is set so that it never will be.
    """
    await_(machine, depth, lambda: _SIGNS[depth](machine), lambda: _TROUBLES[depth](machine, profile), profile,
           within=profile.boot.ready_within)  # fmt: skip
    if trouble := _TROUBLES[depth](machine, profile):
        raise explained(machine, profile, depth, trouble)
    return True


def await_(machine: Machine, depth: Depth, is_ready: Callable[[], bool], why: Callable[[], str], profile: Profile, *,
           within: float) -> None:
    """Returns when it is ready, within so many seconds on real hardware; `why` is asked only if it is not.

    Raises:
        NotReady: it is not; what explains it is looked for from the first depth on.
    """
    try:
        came = machine.wait_until(is_ready, f"{depth} is ready", within=within, every=_EVERY)
    except WaitTimedOut:
        came = False
    if not came:
        raise explained(machine, profile, depth, why())


def explained(machine: Machine, profile: Profile, depth: Depth, why: str) -> NotReady:
    """Returns the error for a trouble at a depth: where an earlier depth is in trouble, it is that which is told."""
    for earlier, trouble in _EXPLANATIONS.items():
        if earlier is depth:
            break
        if found := trouble(machine, profile):
            return NotReady(earlier, found, evidence=journals(machine))
    return NotReady(depth, why, evidence=journals(machine))


def journals(machine: Machine) -> str:
    """Returns the end of the journals of kubelet and containerd."""
    units = (kubelet.KUBELET, kubelet.CONTAINERD)
    return "\n".join(f"--- {unit}\n{machine.guest.kubernetes.journal_of(unit)}" for unit in units)


def _containerd(machine: Machine, profile: Profile) -> str:
    try:
        runtime = machine.guest.kubernetes.runtime()
    except cri.Unavailable as error:
        return f"{error.happened}{_instead(machine)}"
    if runtime.is_ready:
        return ""
    unmet = "; ".join(str(one) for one in runtime.conditions if not one.is_met and one.name.endswith("Ready"))
    networks = profile.cluster.networks
    empty = "" if machine.guest.kubernetes.files_in(networks) else f"; {networks} is empty"
    return f"{unmet or 'it reports no conditions'}{empty}"


def _instead(machine: Machine) -> str:
    """What may be the reason for a runtime that does not answer."""
    sockets = machine.guest.kubernetes.runtime_sockets()
    service = machine.guest.kubernetes.service(kubelet.CONTAINERD)
    complaint = "" if service.runs else machine.guest.kubernetes.complaint(kubelet.CONTAINERD)
    return "".join([
        f"; containerd listens at {', '.join(sockets)}" if sockets else "",
        "" if service.runs else f"; {service.name} is {service.state}", f": {complaint}" if complaint else "",
    ])  # fmt: skip


def _kubelet(machine: Machine, profile: Profile) -> str:
    service = machine.guest.kubernetes.service(kubelet.KUBELET)
    if not service.runs:
        complaint = machine.guest.kubernetes.complaint(kubelet.KUBELET)
        return f"{service.name} is {service.state}, started {service.restarts + 1} times: {complaint}"
    health = machine.guest.kubelet_health()
    if health != "ok":
        complaint = machine.guest.kubernetes.complaint(kubelet.KUBELET)
        return f"healthz answers {first_line(health) if health else 'nothing'}: {complaint}"
    return _disagreement(machine) or _swap(machine)


def _disagreement(machine: Machine) -> str:
    """What kubelet, containerd and kernel do not agree on about control groups."""
    if (version := machine.guest.kubernetes.cgroup_version()) != 2:
        return f"control groups are of version {version}, not 2"
    ours = machine.guest.kubernetes.cgroup_driver()
    try:
        theirs = machine.guest.kubernetes.runtime().systemd_cgroups
    except cri.Unavailable:
        return ""
    if theirs is None or theirs == (ours == "systemd"):
        return ""
    return f"its cgroup driver is {ours}, and containerd's is {'systemd' if theirs else 'cgroupfs'}"


def _swap(machine: Machine) -> str:
    swaps = machine.guest.kubernetes.swaps()
    return f"swap is on: {', '.join(swaps)}" if swaps else ""


def _hindrance(machine: Machine, profile: Profile) -> str:
    """What keeps any pod from running, whether a static one was asked for or not."""
    if full := machine.guest.kubernetes.full_var():
        return full
    pause = profile.cluster.pause
    if not pause or pause in (images := machine.guest.kubernetes.images_on_board()):
        return ""
    return f"{pause} is not among the images on board: {', '.join(images) or 'there are none'}"


def _static_pod(machine: Machine, profile: Profile) -> str:
    if _pod_runs(machine):
        return ""
    if hindrance := _hindrance(machine, profile):
        return hindrance
    about = r"(?i)sandbox|container|image|cgroup|manifest|evict"
    complaint = machine.guest.kubernetes.complaint
    why = complaint(kubelet.KUBELET, about) or complaint(kubelet.CONTAINERD, about)
    return why or "the kubelet runs no container of it"


def _runtime_is_ready(machine: Machine) -> bool:
    try:
        return machine.guest.kubernetes.runtime().is_ready
    except cri.Unavailable:
        return False


def _pod_runs(machine: Machine) -> bool:
    try:
        return any(one.state is cri.State.RUNNING for one in machine.guest.kubernetes.containers(STATIC_POD))
    except cri.Unavailable:
        return False


#: What one look at a depth costs little to see; and what is wrong with it, which costs more.
_SIGNS: dict[Depth, Callable[[Machine], bool]] = {
    Depth.CONTAINERD: _runtime_is_ready, Depth.STATIC_POD: _pod_runs,
    Depth.KUBELET: lambda machine: machine.guest.kubelet_health() == "ok",
}  # fmt: skip
_TROUBLES: dict[Depth, Callable[[Machine, Profile], str]] = {
    Depth.CONTAINERD: _containerd, Depth.KUBELET: _kubelet, Depth.STATIC_POD: _static_pod,
}  # fmt: skip
#: What explains a later depth: there, nobody may have asked for a static pod.
_EXPLANATIONS = _TROUBLES | {Depth.STATIC_POD: _hindrance}
