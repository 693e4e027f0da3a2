"""containerd and the kubelet are ready out of the box, and run a pod that no API server asked for."""

from __future__ import annotations

from lifsea_testbed.guest.readiness import ReadinessLevel, await_level
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.plugin.items import claim
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.scenarios.static_pod import StaticPod


@claim("containerd-ready")
def test_containerd_answers(booted: Machine, profile: Profile) -> None:
    """containerd answers on its socket, and its CRI plugin is in order."""
    booted.wait_until(booted.guest.runtime.containerd_version, "containerd answers", within=profile.boot.ready_within)
    assert booted.guest.runtime.cri_plugin_state() == "ok"


@claim("containerd-ready")
def test_runtime_network_and_images_are_ready(booted: Machine, profile: Profile) -> None:
    """Asked where the kubelet asks, the CRI says so; images lie in /var, where they can be removed."""
    assert await_level(booted, profile, ReadinessLevel.CONTAINERD)
    directories = booted.guest.runtime.image_directories()
    assert directories != []
    assert [path for path in directories if not path.startswith("/var/")] == []


@claim("kubelet-ready")
def test_the_kubelet_is_healthy(booted: Machine, profile: Profile) -> None:
    """Its service runs, healthz answers ok, control groups are driven in one way, of version 2, and swap is off."""
    assert await_level(booted, profile, ReadinessLevel.KUBELET)


@claim("static-pod-runs")
def test_a_static_pod_runs(static_pod: StaticPod) -> None:
    """It has one sandbox that is ready and one container that runs."""
    assert len(static_pod.ran.sandboxes) == len(static_pod.ran.containers) == 1


@claim("static-pod-runs")
def test_a_static_pod_that_is_killed_comes_back(static_pod: StaticPod) -> None:
    """In the same sandbox runs another container."""
    assert static_pod.killed.sandboxes == static_pod.ran.sandboxes
    assert len(static_pod.killed.containers) == 1
    assert static_pod.killed.ids.isdisjoint({one.id for one in static_pod.ran.containers})


@claim("static-pod-runs")
def test_a_pod_outlives_a_restart_of_containerd(static_pod: StaticPod) -> None:
    """Sandbox and container are the same as before."""
    assert static_pod.restarted.ids == static_pod.killed.ids != set()


@claim("static-pod-runs")
def test_a_pod_outlives_a_crash_of_the_kubelet(static_pod: StaticPod) -> None:
    """Killed, the kubelet is there again as another process; sandbox and container are the same as before."""
    assert static_pod.kubelets[0] != static_pod.kubelets[1]
    assert static_pod.orphaned.ids == static_pod.restarted.ids


@claim("static-pod-runs")
def test_a_pod_opens_no_path_to_be_written(static_pod: StaticPod, profile: Profile) -> None:
    """While it runs, exactly the promised paths take writes."""
    assert static_pod.writable == sorted(profile.paths.writable)
