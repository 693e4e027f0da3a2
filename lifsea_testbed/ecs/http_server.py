"""Services on unix sockets, such as an HTTP server: QEMU's user network connects the guest to them.

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
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Protocol, Self, cast

from lifsea_testbed.ecs.metadata import Metadata, Request, Response
from lifsea_testbed.ecs.metadata_faults import NO_FAULTS, FaultyMetadata, MetadataFaults

#: A connection on which the guest sends nothing for this long (seconds) is closed.
_SILENCE = 30.0
#: The connections that a service has open at one time; a further one is closed at once. A thread serves each, and a
#: process of QEMU hands it over: a guest opens as many as it likes.
MOST_CONNECTIONS = 128
#: The bytes of one request, its lines and headers together; a longer one is closed without an answer.
LONGEST_REQUEST = 64 << 10
#: How often the service checks whether it should stop (seconds): closing a machine may take that long.
_GLANCE = 0.05


class Responder(Protocol):
    """Answers HTTP requests: an instance's metadata, a repository."""

    def answer(self, request: Request) -> Response:
        """Returns the response to that request.

        Raises:
            ConnectionError: the connection is to be closed without one.
        """
        ...


class Service:
    """Runs a server within the context, in a thread of that name."""

    def __init__(self, server: socketserver.BaseServer, name: str) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(_GLANCE,), name=name, daemon=True)

    def __enter__(self) -> Self:
        """Starts to serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()


class SocketService(Service):
    """Serves a unix socket within the context; the handler finds `served` in its server."""

    def __init__(self, path: Path, handler: type[socketserver.BaseRequestHandler], served: Any) -> None:
        self.path = path
        with _short_name(path) as name:
            self._socket_server = SocketServer(name, handler, served)
        super().__init__(self._socket_server, path.name)

    def __exit__(self, *_: object) -> None:
        """Stops serving and removes the socket."""
        super().__exit__()
        self.path.unlink(missing_ok=True)

    @property
    def refused(self) -> int:
        """The number of connections that were closed at once, because 128 were open."""
        return self._socket_server.refused

    def admitted(self, uid: int, gid: int) -> Self:
        """Gives the socket to the user that QEMU runs as; returns the service itself."""
        os.chown(self.path, uid, gid, follow_symlinks=False)
        return self


class HttpService(SocketService):
    """Serves a responder over HTTP."""

    def __init__(self, responder: Responder, path: Path) -> None:
        super().__init__(path, _HttpHandler, responder)


class MetadataService(HttpService):
    """Serves one instance's metadata, with those faults."""

    def __init__(self, metadata: Metadata, path: Path, faults: MetadataFaults = NO_FAULTS) -> None:
        self.metadata = metadata
        super().__init__(metadata if faults == NO_FAULTS else FaultyMetadata(metadata, faults), path)


class SocketServer(socketserver.ThreadingUnixStreamServer):
    """Listens on a unix socket, with a thread for each connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, handler: type[socketserver.BaseRequestHandler], served: Any) -> None:
        self.served = served
        #: The connections that were closed at once, because too many were open.
        self.refused = 0
        self._free = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__(path, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the thread that serves a connection, or closes the connection if too many are open."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.refused += 1
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect early."""


class _BoundedLines:
    """The lines of one request, as http.server reads them, up to a bound over all of them."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file, self._left = file, LONGEST_REQUEST

    def readline(self, limit: int = -1) -> bytes:
        """Returns the next line, or its first `limit` bytes.

        Raises:
            ConnectionAbortedError: the request is too long.
        """
        line = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise ConnectionAbortedError
        return line

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _HttpHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENCE
    server: SocketServer

    def setup(self) -> None:
        """Bounds what is read of the connection, on which only one request is answered."""
        super().setup()
        self.rfile = cast(Any, _BoundedLines(self.rfile))

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
        """Returns a fixed name: the peer of a unix socket has no address."""
        return "guest"

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: the responder records its requests."""


@contextlib.contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """Yields a name for the path that fits the 108 bytes of a socket's address (unix(7)), for any directory."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
