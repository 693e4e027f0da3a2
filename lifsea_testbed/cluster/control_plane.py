"""The control plane: a real etcd, kube-apiserver and kube-controller-manager, on a loopback address of their own.

Each cluster draws an address of 127.0.0.0/8, so that several use the usual ports side by side. All connections are TLS,
and a client needs a certificate of the cluster's own authority. The API server reaches kubelets through a tunnel.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lifsea_testbed.cluster.authority import Authority, ClientIdentity, private_key
from lifsea_testbed.ecs.instance import CLUSTER_ADDRESS, CLUSTER_PORT
from lifsea_testbed.ecs.relay import Relay, connect_to
from lifsea_testbed.errors import HostError, LaunchError, NotJudged, Reason
from lifsea_testbed.qemu.process import describe_exit, processor_time
from lifsea_testbed.qemu.storage import open_regular
from lifsea_testbed.support.confined_process import ConfinedProcess
from lifsea_testbed.support.confinement import Confinement, Limits, confined
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.private_dir import PrivateDirectory
from lifsea_testbed.support.programs import run_tool
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import printable

#: The usual ports of etcd.
_CLIENTS, _PEERS = 2379, 2380
_SERVICES, _PODS = "10.96.0.0/16", "10.88.0.0/16"
#: How long the API server may take to be ready, and the interval between two checks (seconds on the host).
_STARTING, _POLL = 180.0, 0.2
#: How long the last program has to survive: one that refuses its options or its certificates ends before (seconds).
_SURVIVING = 2.0
#: How long a program may take to list its options (seconds).
_LISTING = 30.0
#: A node whose heartbeat is this old is NotReady (seconds). A kubelet sends one every ten; Kubernetes' default is 40.
GRACE = 25
#: How much of the end of a log is kept (bytes).
_LOG_END = 3000
#: How long a program may take to end after SIGTERM before it is killed (seconds).
_ENDING = 5.0
#: Programs in Go reserve more address space than they use, and have a thread for each call that blocks.
_LIMITS = Limits(processes=1024, files=8192, file_size=2 << 30)
#: A request through the tunnel, its end, and its greatest length (bytes).
_REQUEST = re.compile(rb"CONNECT ([^\s:]+):\d+ HTTP/1\.[01]\r\n")
_END = b"\r\n\r\n"
_LONGEST = 8192


@dataclass(frozen=True, kw_only=True)
class ControlPlanePaths:
    """The paths of the three programs on this host."""

    etcd: Path
    api_server: Path
    controller_manager: Path


def find(directory: Path | None) -> ControlPlanePaths:
    """Returns the programs: those of Kubernetes from that directory or else from PATH, etcd from PATH.

    Raises:
        NotJudged: one of them is not on this host.
    """
    def path(name: str, *, within: Path | None) -> Path:
        found = shutil.which(name, path=str(within) if within else None)
        if found is None:
            raise NotJudged(f"no {name} {f'in {within}' if within else 'on PATH'}: there is no cluster to join "
                            "(hint: install etcd (Debian: etcd-server); build the other two by `python -m images "
                            "control-plane`, and name their directory with --control-plane)", Reason.HOST)
        return Path(found)

    return ControlPlanePaths(etcd=path("etcd", within=None), api_server=path("kube-apiserver", within=directory),
                             controller_manager=path("kube-controller-manager", within=directory))


class ControlPlane:
    """A control plane that runs as long as the context; nodes reach it at CLUSTER_ADDRESS, this host at `address`.

    When it ends, also because it could not start, the ends of its programs' logs are written to `records`, if given.
    """

    def __init__(self, programs: ControlPlanePaths, *, records: Path | None = None) -> None:
        self.authority = Authority()
        self.address = ".".join(["127", *(str(secrets.randbelow(254) + 1) for _ in range(3))])
        self._programs = programs
        self._records = records
        self._started: list[ControlPlaneProgram] = []
        self._stack = contextlib.ExitStack()
        self._directory = self._stack.enter_context(PrivateDirectory()).path
        self._directory.chmod(0o711)
        #: The users of the three programs: none reads what another one has, such as its keys.
        self._store, self._api, self._manager = (self._stack.enter_context(confined()) for _ in range(3))
        self.admin = self._write_identity("admin", self.authority.issue("lifsea-testbed", group="system:masters"))
        self.tunnel = KubeletTunnel(self._place("sockets") / "tunnel")

    def __enter__(self) -> Self:
        """Starts the programs one after the other; returns when the API server is ready.

        Raises:
            LaunchError: a program ended.
            HostError: the API server was not ready in time.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self.__exit__)
            self._stack.enter_context(self.tunnel.admitted(self._api.uid, self._api.gid))
            self._start(self._programs.etcd, self._etcd(), self._store)
            self._start(self._programs.api_server, self._api_server(), self._api)
            self._await()
            self._start(self._programs.controller_manager, self._controller_manager(), self._manager)
            self._started[-1].require(within=_SURVIVING)
            self.require()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the programs, the last one first, writes their logs to the records, and removes their files."""
        with self._stack:
            if self._records is not None:
                self._records.mkdir(parents=True, exist_ok=True)
                for name, text in self.logs().items():
                    (self._records / f"{name}.log").write_text(redact(text), "utf-8")

    @property
    def certificate(self) -> Path:
        """The file of the authority's certificate, which is no secret."""
        path = self._write("authority.crt", self.authority.certificate)
        path.chmod(0o644)
        return path

    def kubeconfig(self, name: str, server: str, identity: ClientIdentity) -> str:
        """Returns a kubeconfig (JSON, which is YAML) with which that identity connects to a server."""
        encoded = {field: _base64(value) for field, value in (
            ("certificate-authority-data", self.authority.certificate),
            ("client-certificate-data", identity.certificate), ("client-key-data", identity.key))}  # fmt: skip
        cluster = {"server": server, "certificate-authority-data": encoded.pop("certificate-authority-data")}
        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": "testbed", "cluster": cluster}], "users": [{"name": name, "user": encoded}],
            "contexts": [{"name": name, "context": {"cluster": "testbed", "user": name}}],
        })  # fmt: skip

    def require(self) -> None:
        """Makes sure that every program runs.

        Raises:
            LaunchError: one has ended.
        """
        for program in self._started:
            program.require()

    def logs(self) -> dict[str, str]:
        """Returns the end of each program's log, by its name."""
        return {program.name: program.log() for program in self._started}

    def processor_time(self) -> float:
        """Returns the processor time of all programs together (seconds)."""
        return sum(program.processor_time() for program in self._started)

    def _start(self, path: Path, options: Sequence[str], user: Confinement) -> None:
        program = ControlPlaneProgram(path, options, readable=self._directory, writable=self._place(path.name, user),
                                      confinement=user)  # fmt: skip
        self._stack.enter_context(program)
        self._started.append(program)

    def _await(self) -> None:
        deadline = Deadline.after(_STARTING)
        while not self._is_ready():
            self.require()
            if deadline.expired:
                logs = "\n".join(f"--- {name}\n{text}" for name, text in self.logs().items())
                where = f"; whole logs: {self._records}" if self._records else ""
                raise HostError(f"kube-apiserver was not ready within {_STARTING:.0f} s", evidence=logs,
                                expected=f"GET https://{self.address}:{CLUSTER_PORT}/readyz returns 200",
                                hint=f"check the host's load, memory and disk{where}")  # fmt: skip
            time.sleep(_POLL)

    def _is_ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.load_cert_chain(*map(str, self.admin))
        connection = http.client.HTTPSConnection(self.address, CLUSTER_PORT, timeout=_STARTING, context=context)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False

    def _etcd(self) -> list[str]:
        certificate, key = self._write_identity("etcd", self.authority.issue("etcd", addresses=[self.address]),
                                                    self._store)  # fmt: skip
        peers, clients = (f"https://{self.address}:{port}" for port in (_PEERS, _CLIENTS))
        trusted = [f"--{kind}trusted-ca-file={self.certificate}" for kind in ("", "peer-")]
        return [
            "--name=testbed", f"--data-dir={self._place('etcd', self._store)}", f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}", f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=testbed={peers}", "--client-cert-auth",
            "--peer-client-cert-auth", f"--cert-file={certificate}", f"--key-file={key}",
            f"--peer-cert-file={certificate}", f"--peer-key-file={key}", *trusted,
        ]  # fmt: skip

    def _api_server(self) -> list[str]:
        addresses = [self.address, CLUSTER_ADDRESS, _SERVICES.replace("0.0/16", "0.1")]
        certificate, key = self._write_identity("api", self.authority.issue("kube-apiserver", addresses=addresses),
                                                    self._api)  # fmt: skip
        to_etcd, to_nodes = (self._write_identity(name, self.authority.issue(name, group="system:masters"), self._api)
                             for name in ("api-etcd", "api-kubelet"))  # fmt: skip
        tokens = self._write("tokens.key", private_key(), self._api)
        return [
            f"--bind-address={self.address}", f"--secure-port={CLUSTER_PORT}", f"--advertise-address={CLUSTER_ADDRESS}",
            f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}", f"--client-ca-file={self.certificate}",
            "--anonymous-auth=false", f"--etcd-servers=https://{self.address}:{_CLIENTS}",
            f"--etcd-cafile={self.certificate}", f"--etcd-certfile={to_etcd[0]}", f"--etcd-keyfile={to_etcd[1]}",
            f"--kubelet-client-certificate={to_nodes[0]}", f"--kubelet-client-key={to_nodes[1]}",
            "--kubelet-preferred-address-types=Hostname", f"--egress-selector-config-file={self._egress()}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            # This plugin adds to each pod the token of an account that no controller makes here.
            "--disable-admission-plugins=ServiceAccount", "--allow-privileged=true",
            f"--service-account-key-file={tokens}", f"--service-account-signing-key-file={tokens}",
            f"--service-account-issuer=https://{CLUSTER_ADDRESS}:{CLUSTER_PORT}",
            f"--service-cluster-ip-range={_SERVICES}", f"--cert-dir={self._place('kube-apiserver', self._api)}",
            "--profiling=false",
        ]  # fmt: skip

    def _egress(self) -> Path:
        """Routes connections to kubelets through the tunnel (Kubernetes, KEP 1281, network proxy)."""
        connection = {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": str(self.tunnel.path)}}}
        selection = {"name": "cluster", "connection": connection}
        return self._write("egress.yaml", json.dumps({
            "apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration",
            "egressSelections": [selection],
        }).encode(), self._api)  # fmt: skip

    def _controller_manager(self) -> list[str]:
        identity = self.authority.issue("system:kube-controller-manager", group="system:masters")
        text = self.kubeconfig("controllers", f"https://{self.address}:{CLUSTER_PORT}", identity)
        return [
            f"--kubeconfig={self._write('controllers.yaml', text.encode(), self._manager)}",
            "--controllers=nodelifecycle,nodeipam",
            f"--cluster-cidr={_PODS}", "--allocate-node-cidrs=true", f"--node-monitor-grace-period={GRACE}s",
            "--leader-elect=false", "--secure-port=0",
            # Kubernetes before 1.24 would serve on a second port, without certificates.
            *(["--port=0"] if takes(self._programs.controller_manager, "--port") else []),
        ]  # fmt: skip

    def _write_identity(self, name: str, identity: ClientIdentity,
                        owner: Confinement | None = None) -> tuple[Path, Path]:
        return (self._write(f"{name}.crt", identity.certificate, owner),
                self._write(f"{name}.key", identity.key, owner))  # fmt: skip

    def _write(self, name: str, content: bytes, owner: Confinement | None = None) -> Path:
        """Writes a file that its owner alone reads, or this process alone without one."""
        path = self._directory / name
        if not path.exists():
            with os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(content)
                if owner is not None:
                    owner.own(file.fileno())
        return path

    def _place(self, name: str, owner: Confinement | None = None) -> Path:
        """Makes a directory that its owner alone reads and writes; without one all read it, and nobody else writes."""
        path = self._directory / name
        if not path.exists():
            path.mkdir()
            path.chmod(0o755)
            if owner is not None:
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                owner.own(directory)
                os.close(directory)
        return path


def takes(program: Path, option: str) -> bool:
    """Returns whether a program of Kubernetes lists that option in its help."""
    with contextlib.suppress(HostError):
        listed = run_tool([str(program), "--help"], within=_LISTING)
        return re.search(rf"(?m)^\s+{re.escape(option)}\s", listed.stdout) is not None
    return False


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class ControlPlaneProgram:
    """One running program, confined, in a directory of its own; it ends with the context, or with this process."""

    def __init__(self, path: Path, options: Sequence[str], *, readable: Path, writable: Path,
                 confinement: Confinement) -> None:
        self.name = path.name
        self._command = [str(path), *options]
        # By descriptor: the confined user may have no access to the program's directory.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._process = ConfinedProcess(
                [f"/proc/self/fd/{descriptor}", *options], confinement, directory=writable, kept=_LOG_END,
                inherit=[descriptor], limits=_LIMITS, readable=[readable], writable=[writable], network=True,
            )  # fmt: skip
        finally:
            os.close(descriptor)

    def __enter__(self) -> ControlPlaneProgram:
        """Returns the program, which was started when the object was made."""
        return self

    def __exit__(self, *_: object) -> None:
        """Sends SIGTERM, then SIGKILL if it does not end in time; returns when it has ended."""
        self._process.send(signal.SIGTERM)
        if not self._process.wait(_ENDING):
            self._process.send(signal.SIGKILL)
            self._process.wait(_ENDING)
        self._process.close()

    def processor_time(self) -> float:
        """Returns the processor time that it has used (seconds)."""
        return processor_time(self._process.pid)

    def log(self) -> str:
        """Returns the end of its log."""
        return printable(self._process.output())

    def require(self, *, within: float = 0.0) -> None:
        """Makes sure that it runs, and does not end within that time (seconds).

        Raises:
            LaunchError: it has ended.
        """
        self._process.wait(within)
        status = self._process.status
        if status is not None:
            raise LaunchError(f"{self.name} {describe_exit(status)}", expected="it runs until the cluster ends",
                              evidence=f"{shlex.join(self._command)}\n{self.log()}",
                              hint="check the host's memory and disk")  # fmt: skip


class KubeletTunnel(Relay):
    """The tunnel from the API server to the kubelets: HTTP CONNECT on a unix socket, nodes by their names."""

    def __init__(self, path: Path) -> None:
        self._kubelets: dict[str, tuple[str, int]] = {}
        super().__init__(path, self._accept)

    def announce(self, node: str, address: tuple[str, int]) -> None:
        """Maps the name of a node to the address of its kubelet on this host."""
        self._kubelets[node] = address

    def _accept(self, connection: socket.socket) -> socket.socket:
        """Reads a CONNECT request, connects to the kubelet, and confirms; returns the connection.

        Raises:
            OSError: it is not a CONNECT request, or no node of that name was announced.
        """
        request = b""
        while not request.endswith(_END):
            read = connection.recv(1)
            if not read or len(request) > _LONGEST:
                raise ConnectionError("the API server sent no CONNECT request")
            request += read
        match = _REQUEST.match(request)
        address = self._kubelets.get(match[1].decode("ascii", "replace")) if match else None
        if address is None:
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            raise ConnectionError("no node of that name was announced")
        connected = connect_to(address)(connection)
        connection.sendall(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        return connected
