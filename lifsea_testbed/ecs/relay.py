"""Relays of connections: from a guest to a server elsewhere, until the relay is cut, and from this host to a guest.

QEMU's user network passes the guest's connections to a unix socket: the guest needs no route to the host.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from lifsea_testbed.ecs.http_server import Service, SocketServer, SocketService

#: Opens the connection to the server for a new connection of a client; raises OSError if there is no server.
Connect = Callable[[socket.socket], socket.socket]

#: How long connecting to a server may take (seconds).
_CONNECTING = 10.0
_CHUNK = 1 << 16


def connect_to(address: tuple[str, int]) -> Connect:
    """Returns a function that connects every client to the server at that address of the host."""
    return lambda connection: socket.create_connection(address, timeout=_CONNECTING)


class Relay(SocketService):
    """Forwards bytes in both directions within the context; a cut closes all connections, and new ones at once."""

    def __init__(self, path: Path, connect: Connect) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._is_cut = False
        self._open: set[socket.socket] = set()
        super().__init__(path, _RelayHandler, self)

    def __exit__(self, *_: object) -> None:
        """Closes every connection and removes the socket."""
        self.cut()
        super().__exit__()

    def cut(self) -> None:
        """Closes all connections, and new ones at once, as if the network were gone."""
        with self._lock:
            self._is_cut = True
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Forwards new connections again."""
        with self._lock:
            self._is_cut = False

    def forward(self, near: socket.socket) -> None:
        """Forwards one connection until both ends have closed it."""
        with contextlib.suppress(OSError), self._connect(near) as far:
            far.settimeout(None)
            if not self._hold(near, far):
                return
            try:
                _join(near, far)
            finally:
                with self._lock:
                    self._open -= {near, far}

    def _hold(self, *ends: socket.socket) -> bool:
        """Registers two ends of a connection for a cut; returns False if the relay is cut already."""
        with self._lock:
            if not self._is_cut:
                self._open |= set(ends)
            return not self._is_cut


class PortForward(Service):
    """Listens at an address of this host; `connect` opens the far end of each connection, and closes it after it."""

    def __init__(self, address: tuple[str, int], connect: Callable[[], AbstractContextManager[socket.socket]]) -> None:
        super().__init__(_PortServer(address, connect), "port-forward")


class _PortServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], connect: Callable[[], AbstractContextManager[socket.socket]]) -> None:
        self.connect = connect
        super().__init__(address, _PortHandler)


class _PortHandler(socketserver.BaseRequestHandler):
    server: _PortServer

    def handle(self) -> None:
        with contextlib.suppress(OSError), self.server.connect() as far:
            _join(self.request, far)


def _join(near: socket.socket, far: socket.socket) -> None:
    """Forwards bytes in both directions until both ends have closed."""
    back = threading.Thread(target=_pump, args=(far, near), name="relay-back", daemon=True)
    back.start()
    _pump(near, far)
    back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Forwards the bytes from one end to the other, and the end of the stream."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _RelayHandler(socketserver.BaseRequestHandler):
    server: SocketServer

    def handle(self) -> None:
        self.server.served.forward(self.request)
