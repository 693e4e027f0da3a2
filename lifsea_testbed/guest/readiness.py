"""Levels of readiness: a runtime that answers, a kubelet that is healthy, a pod that runs, a node that is Ready.

Each level has a cheap check, and a costly one that states in one line why the level is not reached. Where an earlier
level explains a later one, the error states the earlier level's reason.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol, TypeVar

from lifsea_testbed.errors import GuestFailure, WaitTimedOut
from lifsea_testbed.guest.cri import ContainerState, Unavailable
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.kubelet import CONTAINERD, KUBELET
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.sanitize import first_line

#: The name of the static pod that the test bed gives a kubelet, and of its container.
STATIC_POD = "lifsea-testbed"
#: The interval of the checks (seconds): each runs several commands.
_EVERY = 1.0
_LONGEST = 500
T = TypeVar("T")


class NodeMachine(Protocol):
    """As much of a machine as readiness needs: its guest, and a wait."""

    @property
    def guest(self) -> Guest:
        """The subjects of its guest."""
        ...

    def wait_until(self, question: Callable[[], T], what: str, *, within: float, every: float = ...) -> T:
        """Returns the first answer that is true; raises WaitTimedOut if none is within so many seconds."""
        ...


class ReadinessLevel(enum.StrEnum):
    """The levels of readiness, the lowest first."""

    CONTAINERD = "containerd"
    KUBELET = "kubelet"
    STATIC_POD = "static pod"
    NODE = "node"
    POD = "pod"


class NotReady(GuestFailure):
    """A node did not become ready; the first line names the level that it did not reach, and why."""

    def __init__(self, level: ReadinessLevel, why: str, *, evidence: str = "") -> None:
        super().__init__(f"{level} not ready: {first_line(why)[:_LONGEST]}", evidence=evidence,
                         expected="each level of readiness (docs/kubelet.md)")
        self.level = level


def await_level(machine: NodeMachine, profile: Profile, level: ReadinessLevel) -> bool:
    """Returns True once the machine has reached that level.

    Raises:
        NotReady: it has not, within the time that the profile allows; or its settings will never let it.
    """
    await_condition(machine, level, lambda: _CHECKS[level](machine), lambda: _REASONS[level](machine, profile),
                    profile, within=profile.boot.ready_within)  # fmt: skip
    if reason := _REASONS[level](machine, profile):
        raise not_ready(machine, profile, level, reason)
    return True


def await_condition(machine: NodeMachine, level: ReadinessLevel, is_ready: Callable[[], bool], why: Callable[[], str],
                    profile: Profile, *, within: float) -> None:
    """Returns once the condition is true, within so many seconds on real hardware; calls `why` only if it is not.

    Raises:
        NotReady: it is not; the reason is searched from the first level on.
    """
    try:
        came = machine.wait_until(is_ready, f"{level} is ready", within=within, every=_EVERY)
    except WaitTimedOut:
        came = False
    if not came:
        raise not_ready(machine, profile, level, why())


def not_ready(machine: NodeMachine, profile: Profile, level: ReadinessLevel, why: str) -> NotReady:
    """Returns the error for a level that was not reached: with the reason of an earlier level, if one has one."""
    for earlier, reason in _EXPLANATIONS.items():
        if earlier is level:
            break
        if found := reason(machine, profile):
            return NotReady(earlier, found, evidence=journals(machine))
    return NotReady(level, why, evidence=journals(machine))


def journals(machine: NodeMachine) -> str:
    """Returns the end of the journals of kubelet and containerd."""
    return "\n".join(f"--- {unit}\n{machine.guest.services.journal(unit)}" for unit in (KUBELET, CONTAINERD))


def _containerd(machine: NodeMachine, profile: Profile) -> str:
    try:
        status = machine.guest.runtime.status()
    except Unavailable as error:
        return f"{error.happened}{_silence(machine)}"
    if status.is_ready:
        return ""
    unmet = "; ".join(str(one) for one in status.conditions if not one.is_met and one.name.endswith("Ready"))
    networks = profile.cluster.networks
    empty = "" if machine.guest.files.names_in(networks) else f"; {networks} is empty"
    return f"{unmet or 'it reports no conditions'}{empty}"


def _silence(machine: NodeMachine) -> str:
    """The likely reason of a runtime that does not answer."""
    sockets = machine.guest.runtime.sockets()
    service = machine.guest.services.state(CONTAINERD)
    error = "" if service.runs else machine.guest.services.last_error(CONTAINERD)
    return "".join([
        f"; containerd listens at {', '.join(sockets)}" if sockets else "",
        "" if service.runs else f"; {service.name} is {service.state}", f": {error}" if error else "",
    ])  # fmt: skip


def _kubelet(machine: NodeMachine, profile: Profile) -> str:
    service = machine.guest.services.state(KUBELET)
    if not service.runs:
        error = machine.guest.services.last_error(KUBELET)
        return f"{service.name} is {service.state}, started {service.restarts + 1} times: {error}"
    health = machine.guest.kubelet.health()
    if health != "ok":
        error = machine.guest.services.last_error(KUBELET)
        return f"healthz answers {first_line(health) if health else 'nothing'}: {error}"
    return _imposters(machine) or _cgroup_conflict(machine) or _swap(machine)


def _imposters(machine: NodeMachine) -> str:
    """The programs that answer in the kubelet's place."""
    found = machine.guest.kubelet.imposters()
    return f"healthz is answered by {', '.join(found)}, which is not of {KUBELET}" if found else ""


def _cgroup_conflict(machine: NodeMachine) -> str:
    """The setting of control groups that kubelet, containerd and kernel do not agree on."""
    if (version := machine.guest.kernel.cgroup_version()) != 2:
        return f"control groups are of version {version}, not 2"
    ours = machine.guest.kubelet.cgroup_driver()
    try:
        theirs = machine.guest.runtime.status().systemd_cgroups
    except Unavailable:
        return ""
    if theirs is None or theirs == (ours == "systemd"):
        return ""
    return f"its cgroup driver is {ours}, and containerd's is {'systemd' if theirs else 'cgroupfs'}"


def _swap(machine: NodeMachine) -> str:
    swaps = machine.guest.kernel.swaps()
    return f"swap is on: {', '.join(swaps)}" if swaps else ""


def _pod_obstacle(machine: NodeMachine, profile: Profile) -> str:
    """The reason why no pod at all can run, whether there is a static one or not."""
    if full := machine.guest.disks.full_var():
        return full
    pause = profile.cluster.pause
    if not pause or pause in (images := machine.guest.runtime.images()):
        return ""
    return f"{pause} is not among the images on board: {', '.join(images) or 'there are none'}"


def _static_pod(machine: NodeMachine, profile: Profile) -> str:
    if _pod_runs(machine):
        return ""
    if obstacle := _pod_obstacle(machine, profile):
        return obstacle
    about = r"(?i)sandbox|container|image|cgroup|manifest|evict"
    last_error = machine.guest.services.last_error
    return last_error(KUBELET, about) or last_error(CONTAINERD, about) or "the kubelet runs no container of it"


def _runtime_is_ready(machine: NodeMachine) -> bool:
    try:
        return machine.guest.runtime.status().is_ready
    except Unavailable:
        return False


def _kubelet_is_healthy(machine: NodeMachine) -> bool:
    return machine.guest.kubelet.health() == "ok"


def _pod_runs(machine: NodeMachine) -> bool:
    try:
        return any(one.state is ContainerState.RUNNING for one in machine.guest.runtime.containers(STATIC_POD))
    except Unavailable:
        return False


#: The cheap check of each level, and the costly search for the reason why it is not reached (empty: it is).
_CHECKS: dict[ReadinessLevel, Callable[[NodeMachine], bool]] = {
    ReadinessLevel.CONTAINERD: _runtime_is_ready, ReadinessLevel.KUBELET: _kubelet_is_healthy,
    ReadinessLevel.STATIC_POD: _pod_runs,
}  # fmt: skip
_REASONS: dict[ReadinessLevel, Callable[[NodeMachine, Profile], str]] = {
    ReadinessLevel.CONTAINERD: _containerd, ReadinessLevel.KUBELET: _kubelet, ReadinessLevel.STATIC_POD: _static_pod,
}  # fmt: skip
#: The reasons that explain a later level: there need not be a static pod.
_EXPLANATIONS = _REASONS | {ReadinessLevel.STATIC_POD: _pod_obstacle}
