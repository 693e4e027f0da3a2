"""A wire to the guest: pexpect on a socket that is already connected, in bytes, with deadlines."""

from __future__ import annotations

import contextlib
import select
import socket

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness

_CHUNK = 1 << 18
#: A guest that takes nothing for this long (seconds) has hung up, as far as a sender is concerned.
_STALLED = 60.0


class StreamClosed(Exception):
    """The other end closed the wire."""


class SocketStream:
    """One end of a socket whose other end QEMU holds."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_STALLED)
        self._spawn: SocketSpawn[bytes] = SocketSpawn(connection, maxread=_CHUNK)

    def send(self, data: bytes) -> None:
        """Sends all of it.

        Raises:
            HungUp: the other end is closed.
        """
        try:
            self._spawn.send(data)
        except OSError as error:
            raise StreamClosed(str(error)) from error

    def receive(self, deadline: Deadline, liveness: Liveness | None = None) -> bytes:
        """Returns what has come, as soon as something has; nothing if the deadline passes first.

        Raises:
            HungUp: the other end is closed.
            Explained: the liveness's reason, at once when the machine ends.
        """
        if liveness is not None:
            liveness.check()
        watched = [self._spawn.child_fd, *([liveness.fileno()] if liveness else [])]
        ready, _, _ = select.select(watched, [], [], deadline.remaining)
        if liveness is not None:
            liveness.check()
        if not ready:
            return b""
        try:
            return self._spawn.read_nonblocking(_CHUNK, 0)
        except pexpect.TIMEOUT:
            return b""
        except (pexpect.EOF, OSError, ValueError) as error:
            raise StreamClosed(str(error)) from error

    def close(self) -> None:
        """Hangs up; a second time does nothing."""
        with contextlib.suppress(OSError):
            self._spawn.close()
