"""A byte stream to a device of the guest: pexpect on a socket that is already connected, with deadlines."""

from __future__ import annotations

import contextlib
import select
import socket

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness

_CHUNK = 1 << 18
#: How long (seconds) a sender waits for a guest that does not read its input.
_STALLED = 60.0


class StreamClosed(Exception):
    """The stream cannot be used any more; the message says why."""


class SocketStream:
    """Our end of a socket pair whose other end QEMU holds."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_STALLED)
        self._spawn: SocketSpawn[bytes] = SocketSpawn(connection, maxread=_CHUNK)

    def send(self, data: bytes) -> None:
        """Sends all of the data.

        Raises:
            StreamClosed: QEMU closed its end, or the guest did not read its input for 60 s.
        """
        try:
            self._spawn.send(data)
        except TimeoutError as error:
            raise StreamClosed(f"the guest did not read its input for {_STALLED:.0f} s") from error
        except OSError as error:
            raise StreamClosed(f"QEMU closed its end ({error})") from error

    def receive(self, deadline: Deadline, liveness: Liveness | None = None) -> bytes:
        """Returns the bytes received, as soon as there are any; empty if the deadline passes first.

        Raises:
            StreamClosed: QEMU closed its end.
            Explained: why the machine ended, as soon as `liveness` knows it.
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
            raise StreamClosed(f"QEMU closed its end ({error})") from error

    def close(self) -> None:
        """Closes our end; a second call does nothing."""
        with contextlib.suppress(OSError):
            self._spawn.close()
