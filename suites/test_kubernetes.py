"""containerd and the kubelet are ready out of the box."""

from __future__ import annotations

from lifsea_testbed.claim import claim
from lifsea_testbed.machine import Machine
from lifsea_testbed.profile import Profile


@claim("containerd-ready")
def test_containerd_answers(machine: Machine, profile: Profile) -> None:
    """containerd answers on its socket, and its CRI plugin is in order."""
    machine.wait_until(machine.guest.containerd_version, "containerd answers", within=profile.boot.ready_within)
    assert machine.guest.cri_state() == "ok"


@claim("kubelet-ready")
def test_the_kubelet_is_healthy(machine: Machine, profile: Profile) -> None:
    """healthz answers ok."""
    health = machine.wait_until(machine.guest.kubelet_health, "the kubelet's healthz answers",
                                within=profile.boot.ready_within)  # fmt: skip
    assert health == "ok"
