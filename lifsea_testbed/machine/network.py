"""The network of a machine: the servers that it reaches, further NICs, and the ports that are forwarded to it."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.ecs.http_server import MOST_CONNECTIONS, HttpService, MetadataService, Responder, SocketService
from lifsea_testbed.ecs.instance import MIRROR_ADDRESS, PRIVATE_ADDRESS, NetworkInterface
from lifsea_testbed.ecs.metadata import Metadata
from lifsea_testbed.ecs.metadata_faults import NO_FAULTS, MetadataFaults
from lifsea_testbed.ecs.relay import Connect, PortForward, Relay
from lifsea_testbed.errors import LaunchError
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.machine.time_server import TimeServer
from lifsea_testbed.qemu import command_line
from lifsea_testbed.support import programs
from lifsea_testbed.support.confinement import Confinement, isolation
from lifsea_testbed.support.deadline import Deadline

#: How long QEMU may take to connect the time server (seconds on the host).
_CONNECTING = 30.0


class MachineNetwork:
    """The servers, NICs and port forwards of a machine, set up before it runs or while it does; `close` ends them.

    Servers and port forwards outlive a power cycle: `connect` restores the forwards at each power-on.
    """

    def __init__(self, metadata: Metadata, directory: Path, confinement: Confinement, *,
                 faults: MetadataFaults = NO_FAULTS, serves_time: bool = False) -> None:
        self.nics: list[NetworkInterface] = []
        #: QEMU's working directory: it finds the sockets of its services there, and may write nothing.
        self.directory = directory
        directory.mkdir()
        directory.chmod(0o755)
        self._confinement = confinement
        self._forwards: list[tuple[str, int]] = []
        self._boot: Boot | None = None
        self._services = contextlib.ExitStack()
        self._time = self._services.enter_context(TimeServer()) if serves_time else None
        self._metadata = MetadataService(metadata, directory / command_line.METADATA_SOCKET, faults)
        self._admit(self._metadata)

    def connect(self, boot: Boot) -> None:
        """Restores the port forwards of a machine that was just powered on, and its time servers."""
        self._boot = boot
        if self._time is not None:
            self._connect_time(boot, self._time)
        for address, port in self._forwards:
            self._forward(boot, address, port)

    def serve_mirror(self, repository: Responder) -> str:
        """Serves that repository at the address of the cloud's mirror from now on; returns its URL."""
        self._admit(HttpService(repository, self.directory / command_line.REPOSITORY_SOCKET))
        return f"http://{MIRROR_ADDRESS}/"

    def attach_nic(self, nic: NetworkInterface) -> None:
        """Attaches a further NIC to the running machine; it is attached again at each later power-on.

        Raises:
            LaunchError: the machine does not run.
        """
        if self._boot is None:
            raise LaunchError("the NIC cannot be attached: the machine is off", expected="a machine that runs")
        self.nics.append(nic)
        self._boot.attach_nic(nic)

    def relay_api_server(self, connect: Connect) -> Relay:
        """Relays connections to the cluster's API server to those that `connect` opens; the relay can be cut."""
        relay = Relay(self.directory / command_line.CLUSTER_SOCKET, connect)
        self._admit(relay)
        return relay

    def forward_port(self, port: int) -> tuple[str, int]:
        """Forwards a TCP port of the guest from now on; returns its address on this host's loopback interface.

        Raises:
            LaunchError: QEMU cannot listen there.
        """
        address = ".".join(["127", *(str(secrets.randbelow(254) + 1) for _ in range(3))])
        self._forwards.append((address, port))
        if self._boot and not self._boot.liveness.ended:
            self._forward(self._boot, address, port)
        if isolation().has_network:
            self._services.enter_context(PortForward((address, port), lambda: self._connection(address, port)))
        return address, port

    def bounds_reached(self) -> str:
        """Returns a line for each bound of the metadata service that the guest reached; nothing if it reached none."""
        lost = f"{self._metadata.refused} connections were refused: more than {MOST_CONNECTIONS} at one time\n"
        cut = "further requests are not recorded, and were answered with 429\n"
        return (lost if self._metadata.refused else "") + (cut if self._metadata.metadata.is_cut else "")

    def close(self) -> None:
        """Stops every server."""
        self._services.close()

    def _admit(self, service: SocketService) -> None:
        self._services.enter_context(service.admitted(self._confinement.uid, self._confinement.gid))

    def _connect_time(self, boot: Boot, server: TimeServer) -> None:
        """Connects the server to the hub between the machine's NIC and the user network."""
        name = command_line.TIME_NETWORK
        with server.plug() as connection:
            boot.monitor.add_socket(connection.fileno(), name, deadline=Deadline.after(_CONNECTING))
        boot.execute("netdev_add", {"type": "socket", "id": name, "fd": name})
        boot.execute("netdev_add", {"type": "hubport", "id": f"{name}-port", "hubid": command_line.HUB, "netdev": name})

    @contextlib.contextmanager
    def _connection(self, address: str, port: int) -> Iterator[socket.socket]:
        """A connection to a port that QEMU listens on in its own network; none if the machine is off."""
        if self._boot is None or self._boot.liveness.ended:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                command = self._confinement.enter_network(
                    self._boot.process.pid, ["socat", "-t", "3600", "STDIO", f"TCP4:{address}:{port}"])
                process = programs.start(command, directory=self.directory, stdin=theirs.fileno(),
                                         stdout=theirs.fileno(), stderr=programs.NOWHERE)  # fmt: skip
            try:
                yield ours
            finally:
                process.kill()
                process.wait()

    def _forward(self, boot: Boot, address: str, port: int) -> None:
        rule = f"tcp:{address}:{port}-{PRIVATE_ADDRESS}:{port}"
        command = f"hostfwd_add {command_line.USER_NETWORK} {rule}"
        answer = boot.execute("human-monitor-command", {"command-line": command})
        if answer:
            raise LaunchError(f"QEMU does not forward {rule}", evidence=str(answer).strip(),
                              hint="another process may listen there")  # fmt: skip
