"""A relay: what connects to a unix socket is led on to a server elsewhere, until the relay is cut.

QEMU's user network hands it connections of the guest; the guest needs no route to the host, and nothing more listens.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from lifsea_testbed.ecs.service import short_name

#: Takes a new connection, as far as that tells where it is to lead, and returns one to there; OSError if there is none.
Reach = Callable[[socket.socket], socket.socket]

#: How often the relay looks whether it is to end, and how long a server may take to be reached (seconds).
_GLANCE, _REACHING = 0.05, 10.0
_CHUNK = 1 << 16


def leading_to(address: tuple[str, int]) -> Reach:
    """Returns what reaches a server at that address of the host, whoever connects."""
    return lambda connection: socket.create_connection(address, timeout=_REACHING)


class Relay:
    """Carries bytes both ways for as long as the context lasts; a cut closes every connection, and each later one."""

    def __init__(self, path: Path, reach: Reach) -> None:
        self.path = path
        self._reach = reach
        self._lock = threading.Lock()
        self._is_cut = False
        self._open: set[socket.socket] = set()
        with short_name(path) as name:
            self._server = _Server(name, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_GLANCE,), name=path.name, daemon=True)

    def __enter__(self) -> Self:
        """Starts to carry."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes every connection and removes the socket."""
        self.cut()
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def admitted(self, uid: int, gid: int) -> Self:
        """Lets that user connect; returns the relay itself."""
        os.chown(self.path, uid, gid)
        return self

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

    def carry(self, near: socket.socket) -> None:
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


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, relay: Relay) -> None:
        self.relay = relay
        super().__init__(path, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A guest that hangs up in the middle is no news."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.server.relay.carry(self.request)
