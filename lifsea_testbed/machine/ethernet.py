"""A switch that carries Ethernet frames between machines, over links that can be cut, delayed and made lossy.

Nothing listens and no privilege is needed: each port is a socket pair, whose far end QEMU inherits. On it every frame
follows its length, 4 bytes, big-endian (QEMU net/socket.c, net_socket_receive).
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import os
import queue
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

_LENGTH = struct.Struct(">I")
#: The largest frame of QEMU (bytes; net/net.h, NET_BUFSIZE); a peer that announces more is unplugged.
_LARGEST = 4096 + 65536
#: Two addresses and a type: a frame is at least that long (bytes; IEEE 802.3).
_SMALLEST = 14
#: The number of frames queued for one port, and in flight on all links; further ones are lost, as in a real switch.
_QUEUE = 4096
#: The bytes that are queued for one port, and in flight on all links: frames of 64 KiB fill it before the queue.
_QUEUED = 16 << 20
#: How long the thread of a switch, or of a time server, may take to end (seconds): it never waits for a guest.
STOPPING = 10.0
_CHUNK = 1 << 18
#: The size of the address table, which is cleared when a guest invents more senders.
_ADDRESSES = 4096


@dataclass(frozen=True, kw_only=True)
class FrameCount:
    """The frames that a link carried, and those it did not: cut off, lost by chance, or more than the queues hold."""

    carried: int = 0
    cut: int = 0
    lost: int = 0
    overrun: int = 0


class Link:
    """The link between two ports, intact at first; a change affects later frames, in both directions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = FrameCount()
        self._is_cut, self._delay, self._share = False, 0.0, 0.0
        self._chances: dict[bool, random.Random] = {}

    @property
    def count(self) -> FrameCount:
        """The frames so far."""
        return self._count

    def cut(self) -> None:
        """Carries no frame from now on; frames in flight are lost as well."""
        with self._lock:
            self._is_cut = True

    def restore(self) -> None:
        """Makes the link intact again: neither cut, nor delayed, nor lossy."""
        with self._lock:
            self._is_cut, self._delay, self._share = False, 0.0, 0.0

    def delay(self, seconds: float) -> None:
        """Delays each frame by so many seconds in each direction."""
        with self._lock:
            self._delay = seconds

    def lose(self, share: float, *, seed: int) -> None:
        """Loses that share of the frames (0 to 1); the seed determines which, by their order in each direction."""
        with self._lock:
            self._share = share
            self._chances = {upward: random.Random(f"{seed} {upward}") for upward in (False, True)}

    def admit(self, *, upward: bool) -> float | None:
        """Returns the delay of the next frame in that direction (seconds), or None if it is lost."""
        with self._lock:
            if self._is_cut:
                self._count = replace(self._count, cut=self._count.cut + 1)
            elif self._share and self._chances[upward].random() < self._share:
                self._count = replace(self._count, lost=self._count.lost + 1)
            else:
                return self._delay
            return None

    def arrive(self) -> bool:
        """Counts a frame at the end of its delay, and returns whether it arrives."""
        with self._lock:
            name = "cut" if self._is_cut else "carried"
            self._count = replace(self._count, **{name: getattr(self._count, name) + 1})
            return not self._is_cut

    def overrun(self) -> None:
        """Counts a frame that found the queue full."""
        with self._lock:
            self._count = replace(self._count, overrun=self._count.overrun + 1)


class Switch:
    """Carries frames between its ports until the context is left; it learns the addresses behind each port."""

    def __init__(self, ports: int) -> None:
        self._links = {pair: Link() for pair in itertools.combinations(range(ports), 2)}
        self._streams: dict[int, FrameStream] = {}
        self._ports: dict[bytes, int] = {}
        self._in_flight: list[tuple[float, int, int, int, bytes]] = []
        self._bytes_in_flight = 0
        self._order = itertools.count()
        self._plugged: queue.SimpleQueue[tuple[int, socket.socket] | None] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="switch", daemon=True)

    def __enter__(self) -> Switch:
        """Starts the switch's thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the thread and closes every port."""
        self._post(None)
        self._thread.join(STOPPING)
        for stream in self._streams.values():
            stream.connection.close()
        self._selector.close()
        os.close(self._wake)

    def link(self, one: int, other: int) -> Link:
        """Returns the link between two ports."""
        return self._links[min(one, other), max(one, other)]

    def plug(self, port: int) -> socket.socket:
        """Returns the far end of a new connection to that port; the connection before it is closed."""
        near, far = socket.socketpair()
        near.setblocking(False)
        self._post((port, near))
        return far

    def _post(self, message: tuple[int, socket.socket] | None) -> None:
        self._plugged.put(message)
        os.eventfd_write(self._wake, 1)

    # The methods below run on the switch's own thread.

    def _serve(self) -> None:
        while True:
            ready = self._selector.select(self._until_next())
            # Connections first: a port that was plugged in before a frame was sent must receive it.
            if not self._take_messages():
                return
            for key, _ in ready:
                if key.fd == self._wake:
                    os.eventfd_read(self._wake)
                elif (stream := self._streams.get(key.data)) is not None:
                    self._serve_port(key.data, stream)
            self._deliver()

    def _take_messages(self) -> bool:
        """Registers new connections; returns False if the switch is to stop."""
        with contextlib.suppress(queue.Empty):
            while (message := self._plugged.get_nowait()) is not None:
                port, connection = message
                self._unplug(port)
                self._streams[port] = FrameStream(connection)
                self._selector.register(connection, selectors.EVENT_READ, port)
            return False
        return True

    def _unplug(self, port: int) -> None:
        if stream := self._streams.pop(port, None):
            self._selector.unregister(stream.connection)
            stream.connection.close()

    def _serve_port(self, port: int, stream: FrameStream) -> None:
        try:
            for frame in stream.receive():
                self._forward(port, frame)
            self._write(port, stream)
        except (OSError, EOFError):
            self._unplug(port)

    def _forward(self, port: int, frame: bytes) -> None:
        """Sends a frame to the port of its destination, or to every other port if that is unknown or a group."""
        destination, source = frame[:6], frame[6:12]
        if len(self._ports) > _ADDRESSES:
            self._ports.clear()
        self._ports[source] = port
        known = None if destination[0] & 1 else self._ports.get(destination)
        for other in [known] if known is not None else list(self._streams):
            if other != port:
                self._send(port, other, frame)

    def _send(self, port: int, other: int, frame: bytes) -> None:
        link = self.link(port, other)
        delay = link.admit(upward=port < other)
        if delay is None:
            return
        if len(self._in_flight) >= _QUEUE or self._bytes_in_flight >= _QUEUED:
            link.overrun()
            return
        self._bytes_in_flight += len(frame)
        heapq.heappush(self._in_flight, (time.monotonic() + delay, next(self._order), port, other, frame))

    def _until_next(self) -> float | None:
        return max(0.0, self._in_flight[0][0] - time.monotonic()) if self._in_flight else None

    def _deliver(self) -> None:
        while self._in_flight and self._in_flight[0][0] <= time.monotonic():
            _, _, port, other, frame = heapq.heappop(self._in_flight)
            self._bytes_in_flight -= len(frame)
            link, stream = self.link(port, other), self._streams.get(other)
            if stream is None:
                continue
            if not stream.has_room:
                link.overrun()
            elif link.arrive():
                stream.send(frame)
                self._write(other, stream)

    def _write(self, port: int, stream: FrameStream) -> None:
        """Writes as much as the peer accepts, and selects the port for writing only while something is left."""
        try:
            stream.flush()
        except OSError:
            self._unplug(port)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if stream.is_waiting else 0)
        if self._selector.get_key(stream.connection).events != events:
            self._selector.modify(stream.connection, events, port)


class FrameStream:
    """Frames to and from one socket, which never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._unread = bytearray()
        self._unsent: collections.deque[memoryview] = collections.deque()
        self._bytes_unsent = 0

    @property
    def is_waiting(self) -> bool:
        """Whether bytes are still to be sent."""
        return bool(self._unsent)

    @property
    def has_room(self) -> bool:
        """Whether the queue has room for one more frame."""
        return len(self._unsent) < _QUEUE and self._bytes_unsent < _QUEUED

    def receive(self) -> Iterator[bytes]:
        """Yields the frames that have arrived.

        Raises:
            EOFError: the peer closed the connection, or sent something that is no frame.
        """
        with contextlib.suppress(BlockingIOError):
            data = self.connection.recv(_CHUNK)
            if not data:
                raise EOFError
            self._unread += data
        while len(self._unread) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._unread)
            if not _SMALLEST <= length <= _LARGEST:
                raise EOFError
            end = _LENGTH.size + length
            if len(self._unread) < end:
                return
            frame = bytes(self._unread[_LENGTH.size : end])
            del self._unread[:end]
            yield frame

    def send(self, frame: bytes) -> None:
        """Queues a frame; `flush` sends it."""
        self._unsent.append(memoryview(_LENGTH.pack(len(frame)) + frame))
        self._bytes_unsent += _LENGTH.size + len(frame)

    def flush(self) -> None:
        """Sends as much as the peer accepts."""
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                sent = self.connection.send(self._unsent[0])
                self._bytes_unsent -= sent
                self._unsent[0] = self._unsent[0][sent:]
                if not self._unsent[0]:
                    self._unsent.popleft()
