"""A private cluster: its certificates, its relays and tunnel, its control plane, and the diagnosis of its nodes."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from lifsea_testbed.cluster import authority, control_plane, lifecycle
from lifsea_testbed.cluster.authority import Authority
from lifsea_testbed.cluster.cluster import Cluster, Member, node_name
from lifsea_testbed.cluster.control_plane import ControlPlane, KubeletTunnel
from lifsea_testbed.ecs import instance_types
from lifsea_testbed.ecs.instance import CLUSTER_PORT, Instance
from lifsea_testbed.ecs.relay import Relay, connect_to
from lifsea_testbed.errors import LaunchError, NotJudged
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.support import private_dir
from tests.support import ROOT
from tests.support.pods import NODE

HERE = "127.0.0.1"
PROGRAMS = ROOT / "build/control-plane"
INSTANCE = Instance(type=instance_types.find("ecs.g7.large"))


@contextlib.contextmanager
def echo() -> Iterator[tuple[str, int]]:
    """A server that echoes everything."""
    with socket.create_server((HERE, 0)) as server:
        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=again, args=(connection,), daemon=True).start()

        def again(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(4096):
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(path))
    return connection


def echoed(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(4096)


def test_a_relay_carries_both_ways_until_it_is_cut(tmp_path: Path) -> None:
    with echo() as address, Relay(tmp_path / "relay", connect_to(address)) as relay:
        with connected(relay.path) as connection:
            assert echoed(connection, b"hello") == b"hello"
            relay.cut()
            assert connection.recv(1) == b""
        with connected(relay.path) as connection, contextlib.suppress(OSError):
            assert echoed(connection, b"hello") == b""
        relay.restore()
        with connected(relay.path) as connection:
            assert echoed(connection, b"hello") == b"hello"
    assert not relay.path.exists()


def test_a_relay_passes_the_end_of_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "relay"
    with echo() as address, Relay(path, connect_to(address)), connected(path) as connection:
        connection.sendall(b"all")
        connection.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: connection.recv(4096), b"")) == b"all"


def test_a_relay_to_nowhere_hangs_up(tmp_path: Path) -> None:
    with socket.create_server((HERE, 0)) as server:
        nowhere = server.getsockname()
    with Relay(tmp_path / "relay", connect_to(nowhere)) as relay, connected(relay.path) as connection:
        assert connection.recv(1) == b""


def test_a_tunnel_connects_to_nodes_by_their_names(tmp_path: Path) -> None:
    with echo() as address, KubeletTunnel(tmp_path / "tunnel") as tunnel:
        tunnel.announce("node-1", address)
        with connected(tunnel.path) as connection:
            answer = echoed(connection, b"CONNECT node-1:10250 HTTP/1.1\r\nHost: node-1:10250\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert echoed(connection, b"GET /") == b"GET /"
        with connected(tunnel.path) as connection:
            assert echoed(connection, b"CONNECT node-2:10250 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 502 ")
        with connected(tunnel.path) as connection:
            assert echoed(connection, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 502 ")


def test_an_identity_is_accepted_where_its_authority_is_trusted(tmp_path: Path) -> None:
    own, other = Authority(), Authority()
    assert own.certificate != other.certificate
    for issuer, is_taken in ((own, True), (other, False)):
        identity = issuer.issue("server", addresses=[HERE])
        with contextlib.nullcontext() if is_taken else pytest.raises(ssl.SSLError):
            _shake_hands(tmp_path, identity, trusted=own.certificate)


def test_a_certificate_expires_when_it_should() -> None:
    identity = Authority().issue("system:node:x", group="system:nodes", lifetime=datetime.timedelta(hours=-2))
    left = authority.expiry(identity.certificate) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(hours=-2, minutes=-1) < left < datetime.timedelta(hours=-1)


def _shake_hands(place: Path, identity: authority.ClientIdentity, *, trusted: bytes) -> None:
    for name, content in (("crt", identity.certificate), ("key", identity.key), ("ca", trusted)):
        (place / name).write_bytes(content)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(place / "crt", place / "key")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = ssl.create_default_context(cafile=str(place / "ca")).wrap_bio(incoming, outgoing, server_hostname=HERE)
    theirs = server.wrap_bio(outgoing, incoming, server_side=True)
    for side in (ours, theirs, ours):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()


def test_without_programs_a_cluster_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(NotJudged, match=r"no (etcd|kube-apiserver).*images control-plane"):
        control_plane.find(tmp_path)


def test_a_profile_without_a_joining_script_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(NotJudged, match=r"cluster\.join"):
        Cluster(profiles.load("lifsea-3.3"), PROGRAMS, records=tmp_path)


class FakeMember:
    """A machine that joined, or did not."""

    def __init__(self, *, ahead: float = 0.0, node: Any = None, kubeconfig: str = "", complaint: str = "",
                 boot: str = "b") -> None:  # fmt: skip
        guest = SimpleNamespace(clock=SimpleNamespace(ahead=lambda: ahead),
                                files=SimpleNamespace(read=lambda path: kubeconfig),
                                services=SimpleNamespace(last_error=lambda unit, about: complaint))  # fmt: skip
        self.machine, self.node = SimpleNamespace(guest=guest, boot_id=boot), node


def kubeconfig(lifetime: datetime.timedelta) -> str:
    import base64

    certificate = Authority().issue("x", lifetime=lifetime).certificate
    return json.dumps({"users": [{"user": {"client-certificate-data": base64.b64encode(certificate).decode()}}]})


@pytest.mark.parametrize(("member", "trouble"), [
    (FakeMember(node=NODE), ""),
    (FakeMember(node=NODE, boot="c"), "the kubelet has reported nothing since the machine was booted"),
    (FakeMember(), "the kubelet has not registered the node"),
    (FakeMember(complaint="x509: certificate signed by unknown authority"),
     "the kubelet has not registered the node: x509: certificate signed by unknown authority"),
    (FakeMember(ahead=-3600), "its clock is 3600 s behind; the kubelet has not registered the node"),
    (FakeMember(kubeconfig="not: json"), "the kubelet has not registered the node"),
    (FakeMember(kubeconfig=kubeconfig(datetime.timedelta(hours=1))), "the kubelet has not registered the node"),
])  # fmt: skip
def test_what_keeps_a_node_from_being_ready_is_one_line(member: FakeMember, trouble: str) -> None:
    assert lifecycle.node_trouble(cast(Member, member), profiles.load("reference")) == trouble


def test_a_certificate_that_expired_is_named() -> None:
    member = cast(Member, FakeMember(kubeconfig=kubeconfig(datetime.timedelta(hours=-1))))
    reason = lifecycle.node_trouble(member, profiles.load("reference"))
    assert reason.startswith("the certificate in /etc/kubernetes/kubelet.conf expired on 2")


def test_a_node_goes_by_its_host_name_in_lower_case() -> None:
    assert node_name(INSTANCE) == INSTANCE.host_name.lower()


def test_a_control_plane_that_does_not_start_leaves_its_logs(tmp_path: Path) -> None:
    """The error names the command line of the program that ended, and the logs of all programs are kept."""
    scripts = {"etcd": "echo serving; exec sleep 60", "kube-apiserver": "echo unknown flag: --x >&2; exit 3"}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    paths = control_plane.ControlPlanePaths(etcd=tmp_path / "etcd", api_server=tmp_path / "kube-apiserver",
                                            controller_manager=tmp_path / "none")  # fmt: skip
    plane = ControlPlane(paths, records=tmp_path / "records")
    with pytest.raises(LaunchError, match="kube-apiserver exited with status 3") as raised:
        plane.__enter__()
    assert raised.value.evidence.startswith(f"{tmp_path / 'kube-apiserver'} --bind-address=127.")
    logs = {path.name: path.read_text() for path in (tmp_path / "records").iterdir()}
    assert logs == {"etcd.log": "serving\n", "kube-apiserver.log": "unknown flag: --x\n"}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane, where its programs were built."""
    if not (PROGRAMS / "kube-apiserver").exists() or not shutil.which("etcd"):
        pytest.skip("build/control-plane is not built: python -m images control-plane -o build/control-plane")
    with ControlPlane(control_plane.find(PROGRAMS)) as plane:
        yield plane


def test_the_control_plane_listens_on_loopback_alone(plane: ControlPlane) -> None:
    listening = {connection.laddr.ip for process in psutil.Process().children(recursive=True)
                 for connection in process.net_connections(kind="inet") if connection.status == psutil.CONN_LISTEN}
    assert listening == {plane.address} and plane.address.startswith("127.")


def test_the_control_plane_dies_with_the_process_that_started_it() -> None:
    if not (PROGRAMS / "kube-apiserver").exists() or not shutil.which("etcd"):
        pytest.skip("build/control-plane is not built: python -m images control-plane -o build/control-plane")
    script = "import sys, time\nfrom pathlib import Path\nfrom lifsea_testbed.cluster.control_plane import *\n" \
             f"with ControlPlane(find(Path({str(PROGRAMS)!r}))):\n" \
             "    print('ready', flush=True); time.sleep(600)\n"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
        programs = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    gone, alive = psutil.wait_procs(programs, timeout=10)
    assert len(gone) >= 3 and alive == []
    private_dir.clean()


def test_a_client_without_a_certificate_is_refused(plane: ControlPlane) -> None:
    import http.client

    context = ssl.create_default_context(cafile=str(plane.certificate))
    connection = http.client.HTTPSConnection(plane.address, 6443, timeout=10, context=context)
    connection.request("GET", "/api/v1/nodes")
    assert connection.getresponse().status == 401
    connection.close()


def test_the_api_server_takes_the_jobs_of_a_sweep_and_no_others(plane: ControlPlane) -> None:
    """As it would run them: a dry run. What jobs came to have after its release, 1.20, it passes over."""
    server, (certificate, key) = f"https://{plane.address}:{CLUSTER_PORT}", plane.admin
    configuration = client.Configuration(host=server, ssl_ca_cert=str(plane.certificate))
    configuration.cert_file, configuration.key_file = str(certificate), str(key)
    jobs = client.BatchV1Api(client.ApiClient(configuration))
    for job in yaml.safe_load_all((ROOT / "ci/powercut-job.yaml").read_text("utf-8")):
        taken = jobs.create_namespaced_job("default", job, dry_run="All")
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert taken.spec and taken.spec.template.spec
        assert [one.args for one in taken.spec.template.spec.containers] == [container["args"]]
        container["volumeMounts"][0]["name"] = "elsewhere"
        with pytest.raises(ApiException, match="volumeMounts"):
            jobs.create_namespaced_job("default", job, dry_run="All")
    assert jobs.list_namespaced_job("default").items == []
