"""A relay: what connects to a unix socket is led on to a server elsewhere, until the relay is cut.

QEMU's user network hands it connections of the guest; the guest needs no route to the host, and nothing more listens.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path

from lifsea_testbed.ecs.http_server import SocketServer, SocketService

#: Takes a new connection, as far as that tells where it is to lead, and returns one to there; OSError if there is none.
Connect = Callable[[socket.socket], socket.socket]

#: How long a server may take to be reached (seconds).
_REACHING = 10.0
_CHUNK = 1 << 16


def connect_to(address: tuple[str, int]) -> Connect:
    """Returns what reaches a server at that address of the host, whoever connects."""
    return lambda connection: socket.create_connection(address, timeout=_REACHING)


class Relay(SocketService):
    """Carries bytes both ways for as long as the context lasts; a cut closes every connection, and each later one."""

    def __init__(self, path: Path, reach: Connect) -> None:
        self._reach = reach
        self._lock = threading.Lock()
        self._is_cut = False
        self._open: set[socket.socket] = set()
        super().__init__(path, _RelayHandler, self)

    def __exit__(self, *_: object) -> None:
        """Closes every connection and removes the socket."""
        self.cut()
        super().__exit__()

    def cut(self) -> None:
        """Closes every connection, and from now on each that is opened: as a network does that is gone."""
        with self._lock:
            self._is_cut = True
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Carries again what connects from now on."""
        with self._lock:
            self._is_cut = False

    def forward(self, near: socket.socket) -> None:
        """Leads one connection on, until both ends have said all that they had to say."""
        with contextlib.suppress(OSError), self._reach(near) as far:
            far.settimeout(None)
            if not self._hold(near, far):
                return
            try:
                back = threading.Thread(target=_pump, args=(far, near), name="relay-back", daemon=True)
                back.start()
                _pump(near, far)
                back.join()
            finally:
                with self._lock:
                    self._open -= {near, far}

    def _hold(self, *ends: socket.socket) -> bool:
        """Makes a cut close these as well; returns whether the relay is not cut already."""
        with self._lock:
            if not self._is_cut:
                self._open |= set(ends)
            return not self._is_cut


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carries what comes from one end to the other, its end included."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _RelayHandler(socketserver.BaseRequestHandler):
    server: SocketServer

    def handle(self) -> None:
        self.server.served.forward(self.request)
