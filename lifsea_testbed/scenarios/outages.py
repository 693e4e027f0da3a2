"""Power cuts in normal operation: containerd and kubelet are writing, and a pod is being started."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from lifsea_testbed.guest.cri import ContainerState
from lifsea_testbed.guest.readiness import ReadinessLevel, await_condition, await_level
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.guest_paths import KEPT_IN_VAR

#: How long the machine has been busy at each cut (seconds): containerd creates the pod, then its sandbox runs.
MOMENTS = (0.5, 2.0, 6.0)
_POD = "lifsea-testbed-outage-{}"
#: A file is written and synced, and containerd stores an image and removes it, again and again until the power fails.
_LOAD = """
setsid sh -c 'while :; do
    dd if=/dev/urandom of=/var/tmp/lifsea-testbed-load bs=64k count=16 conv=fsync
done' >/dev/null 2>&1 </dev/null &
setsid sh -c 'ctr --namespace k8s.io images export /var/tmp/lifsea-testbed-image {image}
while :; do
    ctr --namespace lifsea-testbed images import /var/tmp/lifsea-testbed-image
    ctr --namespace lifsea-testbed images remove --sync {image}
done' >/dev/null 2>&1 </dev/null &
"""


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A machine after one power cut: after how many seconds of work, and what was found after the boot.

    `text` is what a file holds that was synced before the cut, `written` what it should; `images` are those that
    containerd has, `damage` what the file systems report of themselves.
    """

    after: float
    written: str
    text: str | None
    images: list[str]
    failed_units: list[str]
    kernel_errors: list[str]
    damage: list[str]


@dataclass(frozen=True, kw_only=True)
class Outages:
    """A machine whose power was cut several times while it worked."""

    machine: Machine
    cuts: list[Outage]


def cut_power(machine: Machine, profile: Profile) -> Outages:
    """Cuts the power at each moment, and waits after each boot until every pod that was there runs again.

    Raises:
        NotReady: containerd, the kubelet or a pod does not come back.
        BootFailed, GuestCrashed: the machine does not.
    """
    machine.wait_until_ready()
    await_level(machine, profile, ReadinessLevel.KUBELET)
    return Outages(machine=machine, cuts=[_cut(machine, profile, number) for number in range(len(MOMENTS))])


def _cut(machine: Machine, profile: Profile, number: int) -> Outage:
    guest, written = machine.guest, f"cut {number} of {machine.instance.id}"
    machine.run(_LOAD.format(image=shlex.quote(profile.cluster.pause)))
    guest.kubelet.put_static_pod(_POD.format(number))
    machine.boot.liveness.pause(MOMENTS[number], Deadline.after(MOMENTS[number]))
    guest.files.write(KEPT_IN_VAR, written)
    machine.power_cut()
    machine.wait_until_ready()
    _await_pods(machine, profile, number)
    return Outage(after=MOMENTS[number], written=written, text=guest.files.read(KEPT_IN_VAR),
                  images=guest.runtime.images(), failed_units=guest.units.failed(),
                  kernel_errors=guest.kernel.errors(), damage=guest.disks.damage())  # fmt: skip


def _await_pods(machine: Machine, profile: Profile, newest: int) -> None:
    """Waits until containerd and kubelet are ready, and every pod so far runs."""
    for level in (ReadinessLevel.CONTAINERD, ReadinessLevel.KUBELET):
        await_level(machine, profile, level)
    pods = [_POD.format(number) for number in range(newest + 1)]
    await_condition(machine, ReadinessLevel.STATIC_POD, lambda: not _down(machine, pods),
                    lambda: f"after a power cut these pods do not run: {', '.join(_down(machine, pods))}", profile,
                    within=profile.boot.ready_within)  # fmt: skip


def _down(machine: Machine, pods: list[str]) -> list[str]:
    """The pods without a container that runs."""
    return [pod for pod in pods if not any(one.state is ContainerState.RUNNING
                                           for one in machine.guest.runtime.containers(pod))]  # fmt: skip
