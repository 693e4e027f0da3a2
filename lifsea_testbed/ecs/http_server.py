"""Services on unix sockets, of which one speaks HTTP: QEMU's user network hands each connection of the guest to one.

Nothing listens on a network.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from lifsea_testbed.ecs.metadata import Metadata, Request, Response

#: A guest that sends nothing for this long (seconds) loses its connection.
_SILENCE = 30.0
#: How often the service looks whether it is to end (seconds): so long does the end of a machine take.
_GLANCE = 0.05


class Responder(Protocol):
    """Something that answers requests: an instance's metadata, a repository."""

    def answer(self, request: Request) -> Response:
        """Returns the response to that request."""
        ...


class SocketService:
    """Has a handler serve at a unix socket for as long as the context lasts: what is its server's `served`."""

    def __init__(self, path: Path, handler: type[socketserver.BaseRequestHandler], served: Any) -> None:
        self.path = path
        with _short_name(path) as name:
            self._server = SocketServer(name, handler, served)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_GLANCE,), name=path.name,
                                        daemon=True)  # fmt: skip

    def __enter__(self) -> Self:
        """Starts to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops to answer and removes the socket."""
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def admitted(self, uid: int, gid: int) -> Self:
        """Lets the user that QEMU runs as connect; returns the service itself."""
        os.chown(self.path, uid, gid)
        return self


class HttpService(SocketService):
    """Serves what answers."""

    def __init__(self, answering: Responder, path: Path) -> None:
        super().__init__(path, _HttpHandler, answering)


class MetadataService(HttpService):
    """Serves one instance's metadata."""

    def __init__(self, metadata: Metadata, path: Path) -> None:
        self.metadata = metadata
        super().__init__(metadata, path)


class SocketServer(socketserver.ThreadingUnixStreamServer):
    """Listens for a service, with a thread for each connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, handler: type[socketserver.BaseRequestHandler], served: Any) -> None:
        self.served = served
        super().__init__(path, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A guest that hangs up in the middle is no news."""


class _HttpHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENCE
    server: SocketServer

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self.server.served.answer(Request(method=self.command, path=self.path, headers=headers))
        self.send_response(response.status, http.client.responses.get(response.status))
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(response.body) if response.promised is None else response.promised))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = _answer  # noqa: N815 - the names that http.server looks up

    def address_string(self) -> str:
        """The peer of a unix socket has no address."""
        return "guest"

    def log_message(self, format: str, *args: object) -> None:
        """What answers keeps its own record."""


@contextlib.contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """A name of the path that fits the 108 bytes of a socket's address (unix(7)), however deep its directory lies."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
