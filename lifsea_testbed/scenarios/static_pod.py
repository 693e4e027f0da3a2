"""A static pod, which needs no API server: it runs, is killed, outlives its runtime and its kubelet."""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest.cri import Container, ContainerState, Sandbox
from lifsea_testbed.guest.kubelet import CONTAINERD, KUBELET
from lifsea_testbed.guest.readiness import STATIC_POD, ReadinessLevel, await_condition, await_level
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What ran of the pod at one moment: its sandboxes that are ready, its containers that run."""

    sandboxes: list[Sandbox]
    containers: list[Container]

    @property
    def ids(self) -> set[str]:
        """What tells them from others."""
        return {one.id for one in self.sandboxes} | {one.id for one in self.containers}


@dataclass(frozen=True, kw_only=True)
class StaticPod:
    """A static pod's life: as it ran, after its container was killed, after containerd was restarted, and after the
    kubelet was killed. `kubelets` are its processes before and after, `writable` the paths that could be
    written while the pod ran.
    """

    machine: Machine
    ran: Seen
    killed: Seen
    restarted: Seen
    orphaned: Seen
    kubelets: tuple[int, int]
    writable: list[str]


def live(machine: Machine, profile: Profile) -> StaticPod:
    """Leads a static pod through its life, and looks.

    Raises:
        NotReady: it does not run, or does not come back.
        NotJudged: the profile does not know the image that it could be made of.
    """
    if not profile.cluster.pause:
        raise NotJudged("the profile does not know the image that each pod needs (cluster.pause)")
    guest = machine.guest
    guest.kubelet.put_static_pod(STATIC_POD)
    await_level(machine, profile, ReadinessLevel.STATIC_POD)
    ran, writable = _see(machine), machine.guest.files.writable_paths()
    guest.runtime.kill(ran.containers[0])
    _await_another(machine, profile, ran.containers[0])
    killed = _see(machine)
    guest.services.restart(CONTAINERD)
    await_level(machine, profile, ReadinessLevel.CONTAINERD)
    restarted = _see(machine)
    before = guest.services.state(KUBELET).process
    guest.services.crash(KUBELET)
    machine.wait_until(lambda: guest.services.state(KUBELET).process not in (0, before), "the kubelet is started again",
                       within=profile.boot.ready_within)  # fmt: skip
    await_level(machine, profile, ReadinessLevel.KUBELET)
    return StaticPod(machine=machine, ran=ran, killed=killed, restarted=restarted, orphaned=_see(machine),
                     kubelets=(before, guest.services.state(KUBELET).process), writable=writable)  # fmt: skip


def _see(machine: Machine) -> Seen:
    runtime = machine.guest.runtime
    return Seen(sandboxes=[one for one in runtime.sandboxes(STATIC_POD) if one.is_ready],
                containers=[one for one in runtime.containers(STATIC_POD)
                            if one.state is ContainerState.RUNNING])  # fmt: skip


def _await_another(machine: Machine, profile: Profile, killed: Container) -> None:
    await_condition(machine, ReadinessLevel.STATIC_POD,
                    lambda: bool({one.id for one in _see(machine).containers} - {killed.id}),
                    lambda: "its container was killed and did not come back", profile,
                    within=profile.boot.ready_within)  # fmt: skip
