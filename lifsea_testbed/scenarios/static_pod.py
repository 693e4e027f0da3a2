"""A static pod, which needs no API server: it runs, is killed, and survives its runtime and its kubelet."""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.cri import Container, ContainerState, Sandbox
from lifsea_testbed.guest.kubelet import CONTAINERD, KUBELET
from lifsea_testbed.guest.readiness import STATIC_POD, ReadinessLevel, await_condition, await_level
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile


@dataclass(frozen=True, kw_only=True)
class PodState:
    """A pod at one moment: its sandboxes that are ready, and its containers that run."""

    sandboxes: list[Sandbox]
    containers: list[Container]

    @property
    def ids(self) -> set[str]:
        """The identifiers of both."""
        return {one.id for one in self.sandboxes} | {one.id for one in self.containers}


@dataclass(frozen=True, kw_only=True)
class StaticPod:
    """A static pod as it ran, after its container was killed, after containerd restarted, after the kubelet was killed.

    `kubelets` are the kubelet's process identifiers before and after, `writable` the paths that were writable while the
    pod ran.
    """

    machine: Machine
    ran: PodState
    killed: PodState
    restarted: PodState
    orphaned: PodState
    kubelets: tuple[int, int]
    writable: list[str]


def run(machine: Machine, profile: Profile) -> StaticPod:
    """Runs a static pod, then kills its container, restarts containerd and kills the kubelet.

    Raises:
        NotReady: the pod does not run, or does not come back.
        NotJudged: the profile names no image for the sandbox.
    """
    if not profile.cluster.pause:
        raise NotJudged("the profile names no image for the sandbox of pods (cluster.pause)", Reason.PROFILE)
    guest = machine.guest
    guest.kubelet.put_static_pod(STATIC_POD)
    await_level(machine, profile, ReadinessLevel.STATIC_POD)
    ran, writable = _pod_state(machine), machine.guest.files.writable_paths()
    guest.runtime.kill(ran.containers[0])
    _await_another(machine, profile, ran.containers[0])
    killed = _pod_state(machine)
    guest.services.restart(CONTAINERD)
    await_level(machine, profile, ReadinessLevel.CONTAINERD)
    restarted = _pod_state(machine)
    before = guest.services.state(KUBELET).process
    guest.services.crash(KUBELET)
    machine.wait_until(lambda: guest.services.state(KUBELET).process not in (0, before), "the kubelet is started again",
                       within=profile.boot.ready_within)  # fmt: skip
    await_level(machine, profile, ReadinessLevel.KUBELET)
    return StaticPod(machine=machine, ran=ran, killed=killed, restarted=restarted, orphaned=_pod_state(machine),
                     kubelets=(before, guest.services.state(KUBELET).process), writable=writable)  # fmt: skip


def _pod_state(machine: Machine) -> PodState:
    runtime = machine.guest.runtime
    return PodState(sandboxes=[one for one in runtime.sandboxes(STATIC_POD) if one.is_ready],
                    containers=[one for one in runtime.containers(STATIC_POD)
                                if one.state is ContainerState.RUNNING])  # fmt: skip


def _await_another(machine: Machine, profile: Profile, killed: Container) -> None:
    await_condition(machine, ReadinessLevel.STATIC_POD,
                    lambda: bool({one.id for one in _pod_state(machine).containers} - {killed.id}),
                    lambda: "its container was killed and did not come back", profile,
                    within=profile.boot.ready_within)  # fmt: skip
