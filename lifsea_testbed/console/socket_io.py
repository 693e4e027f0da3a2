"""A byte stream to a device of the guest: pexpect on our end of a socket pair, with deadlines and liveness."""

from __future__ import annotations

import contextlib
import socket
import threading

import pexpect
from pexpect.fdpexpect import fdspawn

from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.polling import wait_for_ready

_CHUNK = 1 << 18
#: How long (seconds) a sender waits for a guest that reads nothing at all of its input.
_STALLED = 60.0


class StreamClosed(Exception):
    """The stream cannot be used any more; the message says why."""


class StreamStalled(Exception):
    """The guest does not read its input; what was sent in part is completed before the next data."""


class SocketStream:
    """Our end of a socket pair whose other end QEMU holds; one thread may receive while others send."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._spawn: fdspawn[bytes] = fdspawn(connection.fileno(), maxread=_CHUNK, use_poll=True)
        self._turn = threading.Lock()
        self._unsent = b""

    def send(self, data: bytes, deadline: Deadline, liveness: Liveness | None = None) -> None:
        """Sends all of the data.

        Raises:
            StreamStalled: the guest did not read its input before the deadline, or nothing of it for 60 s.
            StreamClosed: QEMU closed its end.
            Explained: why the machine ended, as soon as `liveness` knows it.
        """
        with self._turn:
            unsent, self._unsent = self._unsent, b""
            self._unsent = self._push(unsent, deadline, liveness)
            if not self._unsent:
                rest = self._push(data, deadline, liveness)
                if not rest:
                    return
                self._unsent = rest if len(rest) < len(data) else b""
        raise StreamStalled(f"the guest did not read its input for {min(deadline.allowance, _STALLED):.3g} s")

    def receive(self, deadline: Deadline, liveness: Liveness | None = None) -> bytes:
        """Returns the bytes received, as soon as there are any; empty if the deadline passes first.

        What arrived before the machine ended is returned before the end is raised.

        Raises:
            StreamClosed: QEMU closed its end.
            Explained: why the machine ended, as soon as `liveness` knows it.
        """
        data = self._read(liveness)
        if data is None:
            wait_for_ready(deadline, self._connection, *([liveness] if liveness else []))
            data = self._read(liveness)
        return data or b""

    def end(self) -> None:
        """Ends the stream: a thread that receives raises StreamClosed at once."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes our end; a second call does nothing."""
        self._connection.close()

    def _read(self, liveness: Liveness | None) -> bytes | None:
        """Returns what has arrived, or None."""
        if self._connection.fileno() < 0:
            raise StreamClosed("our end is closed")
        try:
            return self._spawn.read_nonblocking(_CHUNK, 0)
        except pexpect.TIMEOUT:
            if liveness is not None:
                liveness.check()
            return None
        except (pexpect.EOF, OSError) as error:
            if liveness is not None:
                liveness.check()
            raise StreamClosed("QEMU closed its end") from error

    def _push(self, data: bytes, deadline: Deadline, liveness: Liveness | None) -> bytes:
        """Sends the data until the deadline, or until the guest reads nothing for too long; returns the rest."""
        sent, view, patience = 0, memoryview(data), deadline.at_most(_STALLED)
        while sent < len(view):
            if liveness is not None:
                liveness.check()
            with contextlib.suppress(BlockingIOError):
                sent += self._write(view[sent:sent + _CHUNK])
                patience = deadline.at_most(_STALLED)
                continue
            if patience.expired:
                break
            wait_for_ready(patience, *([liveness] if liveness else []), writable=[self._connection])
        return bytes(view[sent:])

    def _write(self, data: memoryview) -> int:
        try:
            return self._connection.send(data)
        except BlockingIOError:
            raise
        except OSError as error:
            raise StreamClosed(f"QEMU closed its end ({error})") from error
