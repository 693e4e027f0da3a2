"""containerd and the kubelet are ready after the boot, and run a static pod, without an API server."""

from __future__ import annotations

from lifsea_testbed import Machine, Profile, ReadinessLevel, StaticPod, await_level, claim


@claim("containerd-ready")
def test_containerd_answers(booted: Machine, profile: Profile) -> None:
    """containerd answers on its socket, and its CRI plugin is ok."""
    booted.wait_until(booted.guest.runtime.containerd_version, "containerd answers", within=profile.boot.ready_within)
    assert booted.guest.runtime.cri_plugin_state() == "ok"


@claim("containerd-ready")
def test_runtime_network_and_images_are_ready(booted: Machine, profile: Profile) -> None:
    """The CRI reports so on the kubelet's socket; images are stored in /var, where they can be removed."""
    assert await_level(booted, profile, ReadinessLevel.CONTAINERD)
    directories = booted.guest.runtime.image_directories()
    assert directories != []
    assert [path for path in directories if not path.startswith("/var/")] == []


@claim("kubelet-ready")
def test_the_kubelet_is_healthy(booted: Machine, profile: Profile) -> None:
    """Its service runs, healthz is ok, it and containerd use one cgroup driver, of version 2, and swap is off."""
    assert await_level(booted, profile, ReadinessLevel.KUBELET)


@claim("static-pod-runs")
def test_a_static_pod_runs(static_pod: StaticPod) -> None:
    """It has one ready sandbox and one running container."""
    assert len(static_pod.ran.sandboxes) == len(static_pod.ran.containers) == 1


@claim("static-pod-runs")
def test_a_static_pod_that_is_killed_comes_back(static_pod: StaticPod) -> None:
    """A new container runs in the same sandbox."""
    assert static_pod.killed.sandboxes == static_pod.ran.sandboxes
    assert len(static_pod.killed.containers) == 1
    assert static_pod.killed.ids.isdisjoint({one.id for one in static_pod.ran.containers})


@claim("static-pod-runs")
def test_a_pod_outlives_a_restart_of_containerd(static_pod: StaticPod) -> None:
    """The sandbox and the container are the same as before."""
    assert static_pod.restarted.ids == static_pod.killed.ids != set()


@claim("static-pod-runs")
def test_a_pod_outlives_a_crash_of_the_kubelet(static_pod: StaticPod) -> None:
    """The killed kubelet runs again as a new process; the sandbox and the container are the same as before."""
    assert static_pod.kubelets[0] != static_pod.kubelets[1]
    assert static_pod.orphaned.ids == static_pod.restarted.ids


@claim("static-pod-runs")
def test_a_pod_opens_no_path_to_be_written(static_pod: StaticPod, profile: Profile) -> None:
    """While it runs, exactly the promised paths are writable."""
    assert static_pod.writable == sorted(profile.paths.writable)
