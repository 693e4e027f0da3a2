"""How deep a machine is ready is told in one line, and the reason is looked for from the first depth on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from lifsea_testbed.guest import kubelet
from lifsea_testbed.guest.readiness import Depth, NotReady, await_, reached
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles import profile as profiles
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


@pytest.mark.parametrize(("depth", "traits", "line"), [
    (Depth.CONTAINERD, {"runtime": replace(READY, conditions=(READY.conditions[0], NO_NETWORK)), "networks": []},
     "containerd not ready: NetworkReady=false: cni plugin not initialized; /etc/cni/net.d is empty"),
    (Depth.CONTAINERD, {"runtime": None}, "containerd not ready: no CRI at /run/containerd/containerd.sock: nothing "
     "answers; containerd listens at /run/elsewhere.sock"),
    (Depth.KUBELET, {"runs": False},
     "kubelet not ready: kubelet.service is activating (auto-restart), started 4 times: "
     "failed to load Kubelet config file"),
    (Depth.KUBELET, {"cgroup_driver": "cgroupfs"},
     "kubelet not ready: its cgroup driver is cgroupfs, and containerd's is systemd"),
    (Depth.KUBELET, {"swaps": ["/var/swap"]}, "kubelet not ready: swap is on: /var/swap"),
    (Depth.KUBELET, {"cgroup_version": 1}, "kubelet not ready: control groups are of version 1, not 2"),
    (Depth.KUBELET, {"health": None},
     "kubelet not ready: healthz answers nothing: failed to load Kubelet config file"),
])  # fmt: skip
def test_the_depth_and_the_reason_are_one_line(depth: Depth, traits: dict[str, Any], line: str) -> None:
    with pytest.raises(NotReady) as caught:
        reached(machine(**traits), PROFILE, depth)
    assert caught.value.happened == line
    assert "the journal of kubelet.service" in caught.value.evidence
    assert "the journal of containerd.service" in caught.value.evidence


def test_an_earlier_depth_explains_a_later_one() -> None:
    broken = machine(runtime=replace(READY, conditions=(READY.conditions[0], NO_NETWORK)))
    with pytest.raises(NotReady, match="containerd not ready: NetworkReady=false"):
        await_(broken, Depth.POD, lambda: False, lambda: "the pod is Pending", PROFILE, within=1.0)


@pytest.mark.parametrize(("traits", "line"), [
    ({"full_var": "/var is full: 8 MiB are left"}, "static pod not ready: /var is full: 8 MiB are left"),
    ({"images_on_board": []},
     "static pod not ready: lifsea.local/pause:1 is not among the images on board: there are none"),
    ({}, "node not ready: its certificate expired"),
])  # fmt: skip
def test_a_static_pod_that_nobody_asked_for_explains_nothing(traits: dict[str, Any], line: str) -> None:
    with pytest.raises(NotReady) as caught:
        await_(machine(**traits), Depth.NODE, lambda: False, lambda: "its certificate expired", PROFILE, within=1.0)
    assert caught.value.happened == line


def test_a_static_pod_that_was_asked_for_is_explained_by_its_kubelet() -> None:
    with pytest.raises(NotReady, match="static pod not ready: failed to load Kubelet config file"):
        reached(machine(), PROFILE, Depth.STATIC_POD)


def test_without_an_earlier_trouble_the_depth_itself_is_told() -> None:
    with pytest.raises(NotReady, match="static pod not ready: its container was killed") as caught:
        await_(machine(), Depth.STATIC_POD, lambda: False, lambda: "its container was killed", PROFILE, within=1.0)
    assert caught.value.depth is Depth.STATIC_POD


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
def test_the_last_complaint_is_found(text: str, about: str, expected: str) -> None:
    assert kubelet.last_complaint(text, about) == expected


@pytest.mark.parametrize(("options", "configuration", "driver"), [
    ("kubelet\n--config=/etc/k.yaml\n", "cgroupDriver: systemd\n", "systemd"),
    ("kubelet\n--config=/etc/k.yaml\n--cgroup-driver=cgroupfs\n", "cgroupDriver: systemd\n", "cgroupfs"),
    ("kubelet\n--config=/etc/k.yaml\n", "kind: KubeletConfiguration\n", "cgroupfs"),
    ("kubelet\n", "", "cgroupfs"),
])  # fmt: skip
def test_the_cgroup_driver_is_read_as_the_kubelet_reads_it(options: str, configuration: str, driver: str) -> None:
    assert kubelet.cgroup_driver(FakeShell({"cmdline": options, "cat /etc/k.yaml": configuration})) == driver


@pytest.mark.parametrize(("shown", "full"), [
    ("/var 100% 8", "/var is full: 8 MiB are left"), ("/var 2% 18461", ""), ("", ""),
])  # fmt: skip
def test_a_full_var_is_noticed(shown: str, full: str) -> None:
    assert kubelet.full_var(FakeShell({"df ": shown})) == full


def test_swaps_and_sockets_are_read() -> None:
    swaps = "Filename Type Size Used Priority\n/var/swap file 65532 0 -2\n"
    sockets = "Num RefCount Protocol Flags Type St Inode Path\n" \
              "ffff: 00000002 00000000 00010000 0001 01 1 /run/containerd/containerd.sock\n" \
              "ffff: 00000003 00000000 00000000 0001 03 2 /run/containerd/other.sock\n"  # fmt: skip
    shell = FakeShell({"/proc/swaps": swaps, "/proc/net/unix": sockets})
    assert kubelet.swaps(shell) == ["/var/swap"]
    assert kubelet.runtime_sockets(shell) == ["/run/containerd/containerd.sock"]


def test_a_service_is_described_by_systemd() -> None:
    shell = FakeShell({"systemctl show": "ActiveState=active\nSubState=running\nMainPID=7\nNRestarts=2\n"})
    found = kubelet.service(shell, kubelet.KUBELET)
    assert found.runs and (found.process, found.restarts) == (7, 2)
