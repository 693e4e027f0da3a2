"""The cloud's time servers, on the guest's own network segment, with the time of the host's clock."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time

from lifsea_testbed.ecs import time_frames
from lifsea_testbed.machine.ethernet import STOPPING, FrameStream

#: The frames that are answered in one second, of all connections together: a client asks a few times a minute. A guest
#: that sends more gets no answer to them, and keeps no processor of the host busy with answers.
_MOST_A_SECOND = 1000


class TimeServer:
    """Answers for the time servers, and for the name of one, until the context is left.

    Nothing listens: each connection is a socket pair, whose far end QEMU inherits.
    """

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._plugged: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._stops = False
        self._second, self._answered = 0, 0
        self._thread = threading.Thread(target=self._serve, name="time-server", daemon=True)

    def __enter__(self) -> TimeServer:
        """Starts to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops, and closes every connection."""
        self._stops = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(STOPPING)
        streams = [key.data for key in self._selector.get_map().values() if key.data is not None]
        for connection in (*self._plugged, *(stream.connection for stream in streams)):
            connection.close()
        self._selector.close()
        os.close(self._wake)

    def plug(self) -> socket.socket:
        """Returns the far end of a new connection to the segment."""
        near, far = socket.socketpair()
        near.setblocking(False)
        with self._lock:
            self._plugged.append(near)
        os.eventfd_write(self._wake, 1)
        return far

    # The methods below run on the server's own thread.

    def _serve(self) -> None:
        while not self._stops:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._accept()
                else:
                    self._serve_connection(key.data)

    def _accept(self) -> None:
        os.eventfd_read(self._wake)
        with self._lock:
            plugged, self._plugged = self._plugged, []
        for connection in plugged:
            self._selector.register(connection, selectors.EVENT_READ, FrameStream(connection))

    def _may_answer(self) -> bool:
        """Counts a frame, and returns whether it is among those that are answered in this second."""
        second = int(time.monotonic())
        self._second, self._answered = second, (self._answered + 1 if second == self._second else 1)
        return self._answered <= _MOST_A_SECOND

    def _serve_connection(self, stream: FrameStream) -> None:
        """Answers what has arrived; an answer for which the peer has no room is lost, as on a real network."""
        try:
            for frame in stream.receive():
                if stream.has_room and self._may_answer() and (reply := time_frames.answer(frame, time.time())):
                    stream.send(reply)
            stream.flush()
        except (OSError, EOFError):
            with contextlib.suppress(KeyError):
                self._selector.unregister(stream.connection)
            stream.connection.close()
