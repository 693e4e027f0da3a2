"""A program of the control plane that ends is the host's fault, early or late, and ends every wait on the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lifsea_testbed.cluster import control_plane
from lifsea_testbed.cluster.api import Api
from lifsea_testbed.cluster.control_plane import ControlPlane, ControlPlanePaths
from lifsea_testbed.errors import Blame, LaunchError
from tests.support import quick

LIVES = "exec sleep 60"
REFUSES = 'echo "Error: unknown flag: --port" >&2; exit 1'
LISTS_PORT = 'if [ "$1" = --help ]; then printf "Flags:\\n      --port int   DEPRECATED\\n"; exit; fi; exec sleep 60'


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """A stack that ends planes; the API server of each is ready as soon as it was started."""
    monkeypatch.setattr(ControlPlane, "_is_ready", lambda self: True)
    monkeypatch.setattr(control_plane, "_LISTING", 1.0)
    with ExitStack() as stack:
        yield stack


def plane(place: Path, etcd: str = LIVES, api_server: str = LIVES, controller_manager: str = LIVES) -> ControlPlane:
    scripts = {"etcd": etcd, "kube-apiserver": api_server, "kube-controller-manager": controller_manager}
    for name, script in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)
    paths = ControlPlanePaths(etcd=place / "etcd", api_server=place / "kube-apiserver",
                              controller_manager=place / "kube-controller-manager")  # fmt: skip
    return ControlPlane(paths)


@pytest.mark.parametrize("program", ["etcd", "api_server", "controller_manager"])
def test_a_program_that_ends_at_once_is_the_hosts_fault(tmp_path: Path, stack: ExitStack, program: str) -> None:
    with pytest.raises(LaunchError, match="exited with status 1") as caught:
        stack.enter_context(plane(tmp_path, **{program: REFUSES}))
    assert caught.value.blame is Blame.HOST and "unknown flag: --port" in caught.value.evidence


@pytest.mark.parametrize("program", ["etcd", "api_server", "controller_manager"])
def test_a_program_that_ends_later_ends_every_wait_on_the_cluster(
    tmp_path: Path, stack: ExitStack, program: str
) -> None:
    running = stack.enter_context(plane(tmp_path, **{program: "sleep 6; exit 7"}))
    api = Api("https://127.0.0.1:1", authority=running.certificate, certificate=running.admin[0], key=running.admin[1],
              require=running.require)  # fmt: skip
    deadline = time.monotonic() + 20.0
    with pytest.raises(LaunchError, match="exited with status 7"):
        while time.monotonic() < deadline:
            running.require()
            time.sleep(0.05)
    for request in (lambda: api.node("a"), api.nodes, lambda: api.pods("a"), lambda: api.checks("a"),
                    lambda: api.cordon("a"), lambda: api.log("a")):  # fmt: skip
        with pytest.raises(LaunchError, match="exited with status 7"):
            request()


@pytest.mark.parametrize(("manager", "passed"), [(LISTS_PORT, True), (LIVES, False), (REFUSES, False)])
def test_the_port_that_kubernetes_removed_is_named_where_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str, passed: bool
) -> None:
    monkeypatch.setattr(control_plane, "_LISTING", 1.0)
    made = plane(tmp_path, controller_manager=manager)
    with made.tunnel:
        assert ("--port=0" in made._controller_manager()) is passed
    made.__exit__()


SUITE = """
import pytest
from lifsea_testbed import claim
from lifsea_testbed.errors import GuestFailure, LaunchError
from lifsea_testbed.cluster import cluster as module

class Cluster:
    def __init__(self, *args, **options): pass
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def require(self): raise LaunchError("kube-controller-manager exited with status 1")

module.Cluster = Cluster

@pytest.fixture
def node(cluster):
    raise GuestFailure("the node is not Ready")

@pytest.fixture
def pod(cluster):
    return "runs"

@claim("boots-to-ready")
def test_an_assertion(pod):
    assert pod == "gone"

@claim("no-sshd")
def test_a_fixture(node):
    pass

@claim("no-python")
def test_without_the_cluster():
    assert False

@claim("shell-kept")
def test_a_failure_in_words(pod):
    pytest.fail("no")
"""


def test_what_a_test_finds_wrong_without_a_program_is_the_hosts_fault(pytester: pytest.Pytester) -> None:
    options = quick.lay_out(pytester.path, SUITE)
    pytester.runpytest_subprocess(*options)
    claims = json.loads((pytester.path / "reports/gate.json").read_text())["claims"]
    found = {claim["id"]: claim["tests"][0]["attempts"][0] for claim in claims}
    assert {name: (attempt["status"], attempt["blame"]) for name, attempt in found.items()} == {
        "boots-to-ready": ("broken", "host"), "no-sshd": ("broken", "host"), "no-python": ("failed", "product"),
        "shell-kept": ("broken", "host"),
    }  # fmt: skip
