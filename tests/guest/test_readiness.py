"""The level of readiness and the reason are one line, and the reason is searched from the first level on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from lifsea_testbed.guest.cri import ContainerRuntime
from lifsea_testbed.guest.disks import Disks
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.guest.kubelet import KUBELET, Kubelet
from lifsea_testbed.guest.readiness import NotReady, ReadinessLevel, await_condition, await_level
from lifsea_testbed.guest.services import Services, last_error
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import ClusterSection
from tests.suites.test_suites import FakeMachine
from tests.support.fakes import FakeShell
from tests.support.pods import NO_NETWORK, READY

PROFILE = profiles.load("reference")
FATAL = "F1126 17:22:19.334312   167 server.go:198] failed to load Kubelet config file, error converting YAML"
JOURNAL = f"""
E1126 17:22:18.334312   167 kubelet.go:12] Unable to register node "x"
{FATAL}
E1126 17:22:19.434312   167 file.go:104] Unable to read config path "/etc/kubernetes/manifests": ignoring
I1126 17:22:19.534312   167 server.go:416] Version: v1.20.2
"""


def machine(**traits: Any) -> Machine:
    return cast(Machine, FakeMachine(traits, PROFILE))


@pytest.mark.parametrize(("level", "traits", "line"), [
    (ReadinessLevel.CONTAINERD,
     {"runtime": replace(READY, conditions=(READY.conditions[0], NO_NETWORK)), "files.names_in": []},
     "containerd not ready: NetworkReady=false: cni plugin not initialized; /etc/cni/net.d is empty"),
    (ReadinessLevel.CONTAINERD, {"runtime": None}, "containerd not ready: no CRI at /run/containerd/containerd.sock: "
     "nothing answers; containerd listens at /run/elsewhere.sock"),
    (ReadinessLevel.KUBELET, {"runs": False},
     "kubelet not ready: kubelet.service is activating (auto-restart), started 4 times: "
     "failed to load Kubelet config file"),
    (ReadinessLevel.KUBELET, {"kubelet.cgroup_driver": "cgroupfs"},
     "kubelet not ready: its cgroup driver is cgroupfs, and containerd's is systemd"),
    (ReadinessLevel.KUBELET, {"kubelet.imposters": ["nc", "systemd"]},
     "kubelet not ready: healthz is answered by nc, systemd, which is not of kubelet.service"),
    (ReadinessLevel.KUBELET, {"kernel.swaps": ["/var/swap"]}, "kubelet not ready: swap is on: /var/swap"),
    (ReadinessLevel.KUBELET, {"kernel.cgroup_version": 1}, "kubelet not ready: control groups are of version 1, not 2"),
    (ReadinessLevel.KUBELET, {"kubelet.health": None},
     "kubelet not ready: healthz answers nothing: failed to load Kubelet config file"),
])  # fmt: skip
def test_the_level_and_the_reason_are_one_line(level: ReadinessLevel, traits: dict[str, Any], line: str) -> None:
    with pytest.raises(NotReady) as caught:
        await_level(machine(**traits), PROFILE, level)
    assert caught.value.happened == line
    assert "the journal of kubelet.service" in caught.value.evidence
    assert "the journal of containerd.service" in caught.value.evidence


def test_an_earlier_level_explains_a_later_one() -> None:
    broken = machine(runtime=replace(READY, conditions=(READY.conditions[0], NO_NETWORK)))
    with pytest.raises(NotReady, match="containerd not ready: NetworkReady=false"):
        await_condition(broken, ReadinessLevel.POD, lambda: False, lambda: "the pod is Pending", PROFILE, within=1.0)


@pytest.mark.parametrize(("traits", "line"), [
    ({"disks.full_var": "/var is full: 8 MiB are left"}, "static pod not ready: /var is full: 8 MiB are left"),
    ({"runtime.images": []},
     "static pod not ready: lifsea.local/pause:1 is not among the images on board: there are none"),
    ({}, "node not ready: its certificate expired"),
])  # fmt: skip
def test_a_static_pod_that_does_not_exist_explains_nothing(traits: dict[str, Any], line: str) -> None:
    with pytest.raises(NotReady) as caught:
        await_condition(machine(**traits), ReadinessLevel.NODE, lambda: False, lambda: "its certificate expired",
                        PROFILE, within=1.0)  # fmt: skip
    assert caught.value.happened == line


def test_a_static_pod_that_does_not_run_is_explained_by_its_kubelet() -> None:
    with pytest.raises(NotReady, match="static pod not ready: failed to load Kubelet config file"):
        await_level(machine(), PROFILE, ReadinessLevel.STATIC_POD)


def test_without_an_earlier_reason_the_level_itself_is_named() -> None:
    with pytest.raises(NotReady, match="static pod not ready: its container was killed") as caught:
        await_condition(machine(), ReadinessLevel.STATIC_POD, lambda: False, lambda: "its container was killed",
                        PROFILE, within=1.0)  # fmt: skip
    assert caught.value.level is ReadinessLevel.STATIC_POD


@pytest.mark.parametrize(("text", "about", "expected"), [
    (JOURNAL, "", "failed to load Kubelet config file, error converting YAML"),
    (JOURNAL, "register", 'Unable to register node "x"'),
    (JOURNAL.replace(FATAL, ""), "", 'Unable to register node "x"'),
    ('time="2026" level=error msg="RunPodSandbox failed" error="failed to get \\"pause\\""', "",
     'RunPodSandbox failed: failed to get "pause"'),
    ('time="2026" level=info msg="fine"', "", ""),
    ('E1126 18:22:19.334312   167 pod_workers.go:191] Error syncing: "rpc error: code = Unknown desc = failed to get '
     'sandbox image \\"pause:2\\": not found"', "sandbox", 'failed to get sandbox image "pause:2": not found'),
    ("containerd: invalid disabled plugin URI", "", "invalid disabled plugin URI"),
    ("", "", ""),
])  # fmt: skip
def test_the_last_error_is_found(text: str, about: str, expected: str) -> None:
    assert last_error(text, about) == expected


@pytest.mark.parametrize(("options", "configuration", "driver"), [
    ("kubelet\n--config=/etc/k.yaml\n", "cgroupDriver: systemd\n", "systemd"),
    ("kubelet\n--config=/etc/k.yaml\n--cgroup-driver=cgroupfs\n", "cgroupDriver: systemd\n", "cgroupfs"),
    ("kubelet\n--config=/etc/k.yaml\n", "kind: KubeletConfiguration\n", "cgroupfs"),
    ("kubelet\n", "", "cgroupfs"),
])  # fmt: skip
def test_the_cgroup_driver_is_read_as_the_kubelet_reads_it(options: str, configuration: str, driver: str) -> None:
    shell = FakeShell({"cmdline": options, "cat /etc/k.yaml": configuration})
    assert Kubelet(shell, ClusterSection()).cgroup_driver() == driver


@pytest.mark.parametrize(("shown", "full"), [
    ("/var 100% 8", "/var is full: 8 MiB are left"), ("/var 2% 18461", ""), ("", ""),
])  # fmt: skip
def test_a_full_var_is_noticed(shown: str, full: str) -> None:
    assert Disks(FakeShell({"df ": shown})).full_var() == full


def test_swaps_and_sockets_are_read() -> None:
    swaps = "Filename Type Size Used Priority\n/var/swap file 65532 0 -2\n"
    sockets = "Num RefCount Protocol Flags Type St Inode Path\n" \
              "ffff: 00000002 00000000 00010000 0001 01 1 /run/containerd/containerd.sock\n" \
              "ffff: 00000003 00000000 00000000 0001 03 2 /run/containerd/other.sock\n"  # fmt: skip
    shell = FakeShell({"/proc/swaps": swaps, "/proc/net/unix": sockets})
    assert Kernel(shell).swaps() == ["/var/swap"]
    assert ContainerRuntime(shell, ClusterSection()).sockets() == ["/run/containerd/containerd.sock"]


def test_a_service_is_described_by_systemd() -> None:
    shell = FakeShell({"systemctl show": "ActiveState=active\nSubState=running\nMainPID=7\nNRestarts=2\n"})
    found = Services(shell).state(KUBELET)
    assert found.runs and (found.process, found.restarts) == (7, 2)
