"""A sound node and its pods, and the defects that the suites have to find in them."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any, cast

from lifsea_testbed.cluster.objects import InterruptedNode, JoinedNode, Node, Pod, PodRun
from lifsea_testbed.guest.cri import Condition, Container, ContainerState, RuntimeStatus, Sandbox
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.scenarios.static_pod import PodState, StaticPod

READY = RuntimeStatus(
    conditions=(Condition(name="RuntimeReady", is_met=True), Condition(name="NetworkReady", is_met=True)),
    systemd_cgroups=True,
)  # fmt: skip
NO_NETWORK = Condition(name="NetworkReady", is_met=False, reason="NetworkPluginNotReady",
                       message="Network plugin returns error: cni plugin not initialized")  # fmt: skip
NODE = Node(
    name="iztestz", conditions={"Ready": ("True", "kubelet is posting ready status"), "DiskPressure": ("False", "")},
    reported=datetime.datetime.now(datetime.UTC), processors=2, memory=8158908, kubelet="v1.20.2", os="OS 1",
    kernel="6.1", runtime="containerd://1.7", boot="b", is_cordoned=False,
    labels={"kubernetes.io/os": "linux", "other": "x"},
)  # fmt: skip
_RUNS = {"os": "OS 1", "kernel": "6.1", "runtime": "containerd://1.7", "kubelet": "v1.20.2"}
SOUND: dict[str, Any] = {
    "runtime": READY, "runtime.sockets": ["/run/elsewhere.sock"], "runtime.containers": [],
    "files.names_in": ["10-lifsea.conflist"], "runs": True, "kernel.cgroup_version": 2,
    "kubelet.cgroup_driver": "systemd",
    "kernel.swaps": [], "disks.full_var": "", "runtime.images": ["lifsea.local/pause:1"],
    "runtime.image_directories": ["/var/lib/containerd/x"], "kubelets": (1, 2), "orphaned": "b", "ran": "a",
    "killed": "b", "killed_sandbox": "s", "restarted": "b", "pod_writable": [], "node": NODE, "node_runs": _RUNS,
    "checks": {"ping": "ok", "log": "ok", "syncloop": "ok"},
    "pod": Pod(name="p", node="iztestz", phase="Running", address="10.88.0.2", why=""), "answer": "i-test",
    "interrupted": {"ready_while_cut": False, "kept_while_cut": True, "ready_after_cut": True, "kept_after_cut": True,
                    "ready_while_stopped": False, "ready_after_stop": True, "left": []},
}  # fmt: skip


def _interrupted(**wrong: Any) -> list[dict[str, Any]]:
    """A defect for each thing that may go wrong when a node is interrupted."""
    return [{"interrupted": {**SOUND["interrupted"], key: value}} for key, value in wrong.items()]


DEFECTS: dict[str, list[dict[str, Any]]] = {
    "test_runtime_network_and_images_are_ready": [
        {"runtime": replace(READY, conditions=(READY.conditions[0], NO_NETWORK)), "files.names_in": []},
        {"runtime": replace(READY, conditions=())}, {"runtime": None},
        {"runtime.image_directories": []}, {"runtime.image_directories": ["/run/images"]},
    ],
    "test_the_kubelet_is_healthy": [
        {"kubelet.health": "etcd failed"}, {"kubelet.health": None}, {"runs": False}, {"kernel.cgroup_version": 1},
        {"kubelet.cgroup_driver": "cgroupfs"}, {"kernel.swaps": ["/var/swap"]}, {"kubelet.imposters": ["systemd"]},
    ],
    "test_a_pod_outlives_a_crash_of_the_kubelet": [{"kubelets": (1, 1)}, {"orphaned": "c"}],
    "test_a_static_pod_runs": [{"ran": ""}],
    "test_a_static_pod_that_is_killed_comes_back": [{"killed": ""}, {"killed_sandbox": "t"}, {"killed": "a"}],
    "test_a_pod_outlives_a_restart_of_containerd": [{"restarted": "c"}, {"restarted": ""}],
    "test_a_pod_opens_no_path_to_be_written": [{"pod_writable": ["/usr"]}],
    "test_the_machine_becomes_a_ready_node": [
        {"node": replace(NODE, conditions={"Ready": ("Unknown", "")})},
        {"node": replace(NODE, conditions={"Ready": ("True", ""), "DiskPressure": ("True", "full")})},
    ],
    "test_the_node_has_what_the_instance_has": [
        {"node": replace(NODE, processors=1)}, {"node": replace(NODE, memory=4 << 20)},
        {"node": replace(NODE, memory=9 << 20)},
    ],
    "test_the_node_says_what_it_runs": [{"node_runs": {**_RUNS, name: "other"}} for name in _RUNS],
    "test_the_checks_of_the_kubelet_pass": [
        {"checks": {}}, {"checks": {"ping": "ok", "log": "ok", "syncloop": "500: sync Loop took longer than expected"}},
    ],
    "test_the_node_can_be_told_by_its_labels": [{"node": replace(NODE, labels={})}],
    "test_a_pod_runs_on_the_node": [
        {"pod": replace(SOUND["pod"], phase="Pending")}, {"pod": replace(SOUND["pod"], node="other")},
    ],
    "test_the_network_of_pods_leads_outside": [{"answer": ""}, {"answer": "i-other"}],
    "test_without_the_api_server_the_node_is_not_ready": _interrupted(ready_while_cut=True, ready_after_cut=False),
    "test_a_pod_outlives_the_absence_of_the_api_server": _interrupted(kept_while_cut=False, kept_after_cut=False),
    "test_without_its_kubelet_the_node_is_not_ready": _interrupted(ready_while_stopped=True, ready_after_stop=False),
    "test_a_deleted_pod_is_gone": _interrupted(left=["the pod is Running"]),
}  # fmt: skip


def offered(traits: dict[str, Any], machine: Any, writable: list[str]) -> dict[str, Any]:
    """The fixtures' values for a node with those traits."""
    return {
        "static_pod": StaticPod(
            machine=machine, ran=_seen("s", traits["ran"]), killed=_seen(traits["killed_sandbox"], traits["killed"]),
            restarted=_seen("s", traits["restarted"]), orphaned=_seen("s", traits["orphaned"]),
            kubelets=traits["kubelets"], writable=sorted([*writable, *traits["pod_writable"]])),
        "joined": JoinedNode(machine=machine, node=traits["node"], seconds=30.0, runs=traits["node_runs"],
                             labels={"kubernetes.io/os": "linux"}, checks=traits["checks"]),
        "ran": PodRun(machine=machine, node="iztestz", pod=traits["pod"], answer=traits["answer"], seconds=9.0),
        "interrupted": InterruptedNode(machine=cast(Machine, machine), **traits["interrupted"]),
    }  # fmt: skip


def _seen(sandbox: str, container: str) -> PodState:
    """A sandbox and the container in it; nothing if the container has no name."""
    found = [Container(id=container, pod="p", sandbox=sandbox, attempt=0,
                       state=ContainerState.RUNNING)] if container else []  # fmt: skip
    return PodState(sandboxes=[Sandbox(id=sandbox, pod="p", is_ready=True)] if container else [], containers=found)
