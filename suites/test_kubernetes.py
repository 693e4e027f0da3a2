"""containerd and the kubelet are ready out of the box."""

from __future__ import annotations

from lifsea_testbed.claim import claim
from lifsea_testbed.machine import Machine
from lifsea_testbed.profile import Profile


@claim("containerd-ready")
def test_containerd_answers(booted: Machine, profile: Profile) -> None:
    """containerd answers on its socket, and its CRI plugin is in order."""
    booted.wait_until(booted.guest.containerd_version, "containerd answers", within=profile.boot.ready_within)
    assert booted.guest.cri_state() == "ok"


@claim("kubelet-ready")
def test_the_kubelet_is_healthy(booted: Machine, profile: Profile) -> None:
    """healthz answers ok."""
    health = booted.wait_until(booted.guest.kubelet_health, "the kubelet's healthz answers",
                                within=profile.boot.ready_within)  # fmt: skip
    assert health == "ok"
