"""What a machine is connected to beside its hardware: servers that its network leads to, and ports that lead to it."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from lifsea_testbed.ecs.http_server import HttpService, MetadataService, Responder
from lifsea_testbed.ecs.instance import MIRROR_ADDRESS, PRIVATE_ADDRESS, NetworkInterface
from lifsea_testbed.ecs.relay import Connect, Relay
from lifsea_testbed.errors import LaunchError
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.qemu import command_line
from lifsea_testbed.support.confinement import Confinement


class Wired:
    """What connects a machine, whether it runs yet or not; all of it is gone with the machine."""

    boots: list[Boot]
    _cards: list[NetworkInterface]
    _ports: list[tuple[str, int]]
    _confinement: Confinement
    _directory: Path
    _service: MetadataService
    _services: contextlib.ExitStack

    def serve(self, repository: Responder) -> str:
        """Has the mirror of the cloud answer with that repository from now on; returns its URL."""
        service = HttpService(repository, self._directory / command_line.REPOSITORY_SOCKET)
        self._services.enter_context(service.admitted(self._confinement.uid, self._confinement.gid))
        return f"http://{MIRROR_ADDRESS}/"

    def attach_card(self, card: NetworkInterface) -> None:
        """Attaches a further network card to the running machine; it is there again after each later power-on."""
        self._cards.append(card)
        self.boots[-1].attach(card)

    def lead_to_cluster(self, reach: Connect) -> Relay:
        """Has the address of the machine's cluster lead to whatever `reach` connects to; returns what can be cut."""
        relay = Relay(self._directory / command_line.CLUSTER_SOCKET, reach)
        return self._services.enter_context(relay.admitted(self._confinement.uid, self._confinement.gid))

    def open_port(self, port: int) -> tuple[str, int]:
        """Returns the address, of this host's loopback alone, at which a TCP port of the guest is found from now on.

        Raises:
            LaunchError: QEMU cannot listen there.
        """
        address = ".".join(["127", *(str(secrets.randbelow(254) + 1) for _ in range(3))])
        self._ports.append((address, port))
        if self.boots and not self.boots[-1].liveness.ended:
            self._open(self.boots[-1], address, port)
        return address, port

    def tell(self, user_data: bytes) -> None:
        """Adds a script to what the machine is given as user-data; it runs after the test bed's own."""
        self._service.metadata.append_user_data(user_data)

    def _open_ports(self, boot: Boot) -> None:
        for address, port in self._ports:
            self._open(boot, address, port)

    def _open(self, boot: Boot, address: str, port: int) -> None:
        rule = f"tcp:{address}:{port}-{PRIVATE_ADDRESS}:{port}"
        command = f"hostfwd_add {command_line.USER_NETWORK} {rule}"
        said = boot.execute("human-monitor-command", {"command-line": command})
        if said:
            raise LaunchError(f"QEMU does not forward {rule}", evidence=str(said).strip(),
                              hint="something else may listen there")  # fmt: skip
