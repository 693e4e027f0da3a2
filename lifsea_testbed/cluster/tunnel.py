"""The tunnel by which an API server reaches kubelets: HTTP CONNECT on a unix socket, nodes by their names."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from lifsea_testbed.ecs.relay import Relay, connect_to

_REQUEST = re.compile(rb"CONNECT ([^\s:]+):\d+ HTTP/1\.[01]\r\n")
_END = b"\r\n\r\n"
_LONGEST = 8192


class Tunnel(Relay):
    """Leads a connection to whatever kubelet was announced under the name that it asks for."""

    def __init__(self, path: Path) -> None:
        self._kubelets: dict[str, tuple[str, int]] = {}
        super().__init__(path, self._lead)

    def announce(self, node: str, address: tuple[str, int]) -> None:
        """Has the kubelet of that node be found at an address of this host from now on."""
        self._kubelets[node] = address

    def _lead(self, connection: socket.socket) -> socket.socket:
        """Reads whom a request is for, and answers when that is reached.

        Raises:
            OSError: it is no request to connect, or nobody of that name is there.
        """
        asked = b""
        while not asked.endswith(_END):
            read = connection.recv(1)
            if not read or len(asked) > _LONGEST:
                raise ConnectionError("no request to connect")
            asked += read
        match = _REQUEST.match(asked)
        address = self._kubelets.get(match[1].decode("ascii", "replace")) if match else None
        if address is None:
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            raise ConnectionError("no node of that name")
        reached = connect_to(address)(connection)
        connection.sendall(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        return reached
