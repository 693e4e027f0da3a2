"""Nodes and pods as the API returns them; an API server that fails is the host's fault."""

from __future__ import annotations

import datetime
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.cluster.api import Api
from lifsea_testbed.cluster.authority import Authority
from lifsea_testbed.cluster.rollout import NodeWatch
from lifsea_testbed.errors import HostError
from lifsea_testbed.support.deadline import Deadline

NODE: dict[str, Any] = {
    "metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux"}}, "spec": {"unschedulable": True},
    "status": {
        "capacity": {"cpu": "2", "memory": "8158908Ki"},
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "cni plugin not initialized",
             "lastHeartbeatTime": "2026-11-26T17:45:00Z"},
            {"type": "DiskPressure", "status": "True", "reason": "KubeletHasDiskPressure"},
            {"type": "PIDPressure", "status": "False"},
        ],
        "nodeInfo": {"kubeletVersion": "v1.20.2", "osImage": "OS 1", "kernelVersion": "6.1", "machineID": "",
                     "containerRuntimeVersion": "containerd://1.7", "architecture": "amd64", "bootID": "",
                     "operatingSystem": "linux", "kubeProxyVersion": "", "systemUUID": ""},
    },
}  # fmt: skip
WAITING = {"name": "c", "ready": False, "restartCount": 0, "image": "", "imageID": "",
           "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}  # fmt: skip
POD = {"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
       "status": {"phase": "Pending", "podIP": "10.88.0.2", "containerStatuses": [WAITING]}}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "/api/v1/nodes/n": NODE, "/api/v1/nodes": {"items": [NODE]}, "/api/v1/namespaces/default/pods/p": POD,
    "/api/v1/namespaces/default/pods": {"items": [POD]}, "/api/v1/namespaces/default/pods/broken": 500,
    "/api/v1/namespaces/default/events": {"items": [
        {"metadata": {}, "involvedObject": {}, "reason": "Failed", "message": "image not found"}]},
}  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = ANSWERS.get(self.path.partition("?")[0], 404)
        status, body = (answer, {}) if isinstance(answer, int) else (200, answer)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """An authority and an identity, in files."""
    issuer = Authority()
    identity = issuer.issue("x")
    contents = {"authority": issuer.certificate, "certificate": identity.certificate, "key": identity.key}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


@pytest.fixture
def api(files: dict[str, Path]) -> Iterator[Api]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Api(f"http://127.0.0.1:{server.server_port}", authority=files["authority"],
                  certificate=files["certificate"], key=files["key"])  # fmt: skip
        server.shutdown()


def test_a_node_has_every_condition_that_is_not_met(api: Api) -> None:
    node = api.node("n")
    assert node is not None and node == api.nodes()[0]
    assert not node.is_ready and node.is_cordoned
    assert node.why_not == "Ready=False: cni plugin not initialized; DiskPressure=True: KubeletHasDiskPressure"
    assert (node.processors, node.memory, node.kubelet, node.runtime) == (2, 8158908, "v1.20.2", "containerd://1.7")
    assert node.reported == datetime.datetime(2026, 11, 26, 17, 45, tzinfo=datetime.UTC)


def test_a_pod_has_the_reason_for_which_it_waits(api: Api) -> None:
    pod = api.pod("p")
    assert pod is not None and pod == api.pods("n")[0]
    assert (pod.node, pod.phase, pod.address, pod.why) == ("n", "Pending", "10.88.0.2", "ErrImagePull: not found")
    assert api.events("p") == ["Failed: image not found"]


def test_a_missing_object_is_none(api: Api) -> None:
    assert api.node("other") is None and api.pod("other") is None and api.log("other") == ""


def test_a_refusal_is_the_hosts_fault(api: Api) -> None:
    with pytest.raises(HostError, match="the API server refuses the request: 500"):
        api.pod("broken")


def test_a_watch_sees_who_is_ready(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = {**NODE["status"], "conditions": [{"type": "Ready", "status": "True"}]}
    monkeypatch.setitem(ANSWERS, "/api/v1/nodes", {"items": [{**NODE, "status": ready}, NODE]})
    with NodeWatch(api) as watch:
        watch.count()
        deadline = Deadline.after(10)
        while watch.fewest is None and not deadline.expired:
            time.sleep(0.05)
    assert watch.has_seen("n") and not watch.has_seen("other") and watch.fewest == 1
