"""The hub: carries Ethernet frames between machines, over links that can be cut, delayed and made lossy.

Nothing listens and no privilege is needed: each port is a socket pair, and QEMU is handed its far end. On it every
frame follows its length, 4 bytes, big-endian (QEMU net/socket.c, net_socket_receive).
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
#: QEMU's own bound (net/net.h, NET_BUFSIZE); whoever announces more is no QEMU.
_LARGEST = 4096 + 65536
#: Two addresses and a type: what is shorter is no frame (IEEE 802.3).
_SMALLEST = 14
#: What a guest does not take, and what is under way, is held up to so many frames; the rest is lost, as in a switch.
_HELD = 4096
_CHUNK = 1 << 18
#: A guest that makes up more senders than this has them forgotten.
_SENDERS = 4096


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many frames a link carried, and how many it did not: cut, lost by chance, or more than it can hold."""

    carried: int = 0
    cut: int = 0
    lost: int = 0
    overrun: int = 0


class Link:
    """What lies between two ports, whole at first; a change counts for the frames that come after it, both ways."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = Count()
        self._is_cut, self._delay, self._share = False, 0.0, 0.0
        self._chances: dict[bool, random.Random] = {}

    @property
    def count(self) -> Count:
        """The frames so far."""
        return self._count

    def cut(self) -> None:
        """Carries nothing any more; what is under way is lost, too."""
        with self._lock:
            self._is_cut = True

    def restore(self) -> None:
        """Makes it whole again: neither cut, nor slow, nor lossy."""
        with self._lock:
            self._is_cut, self._delay, self._share = False, 0.0, 0.0

    def delay(self, seconds: float) -> None:
        """Has each frame arrive that much later: a round trip takes twice as long."""
        with self._lock:
            self._delay = seconds

    def lose(self, share: float, *, seed: int) -> None:
        """Loses that share of the frames (0 to 1); the seed alone says which of each direction, by their order."""
        with self._lock:
            self._share = share
            self._chances = {upward: random.Random(f"{seed} {upward}") for upward in (False, True)}

    def admit(self, *, upward: bool) -> float | None:
        """Returns the seconds that the next frame of that direction is under way, or nothing if it will not arrive."""
        with self._lock:
            if self._is_cut:
                self._count = replace(self._count, cut=self._count.cut + 1)
            elif self._share and self._chances[upward].random() < self._share:
                self._count = replace(self._count, lost=self._count.lost + 1)
            else:
                return self._delay
            return None

    def arrive(self) -> bool:
        """Counts a frame that has been under way, and returns whether it arrives."""
        with self._lock:
            name = "cut" if self._is_cut else "carried"
            self._count = replace(self._count, **{name: getattr(self._count, name) + 1})
            return not self._is_cut

    def overrun(self) -> None:
        """Counts a frame that found no room."""
        with self._lock:
            self._count = replace(self._count, overrun=self._count.overrun + 1)


class Hub:
    """Carries frames between its ports for as long as the context lasts; it learns who is where as a switch does."""

    def __init__(self, ports: int) -> None:
        self._links = {pair: Link() for pair in itertools.combinations(range(ports), 2)}
        self._wires: dict[int, _Wire] = {}
        self._whereabouts: dict[bytes, int] = {}
        self._under_way: list[tuple[float, int, int, int, bytes]] = []
        self._order = itertools.count()
        self._plugged: queue.SimpleQueue[tuple[int, socket.socket] | None] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="hub", daemon=True)

    def __enter__(self) -> Hub:
        """Starts to carry."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Unplugs everybody."""
        self._tell(None)
        self._thread.join()
        for wire in self._wires.values():
            wire.connection.close()
        self._selector.close()
        os.close(self._wake)

    def link(self, one: int, other: int) -> Link:
        """Returns the link between two ports."""
        return self._links[min(one, other), max(one, other)]

    def plug(self, port: int) -> socket.socket:
        """Returns the far end of a new wire to that port; what was plugged in there before is not any more."""
        near, far = socket.socketpair()
        near.setblocking(False)
        self._tell((port, near))
        return far

    def _tell(self, message: tuple[int, socket.socket] | None) -> None:
        self._plugged.put(message)
        os.eventfd_write(self._wake, 1)

    # From here on: the hub's own thread

    def _serve(self) -> None:
        while True:
            ready = self._selector.select(self._until_next())
            # What was plugged in before a frame was sent is plugged in when that is carried.
            if not self._take_messages():
                return
            for key, _ in ready:
                if key.fd == self._wake:
                    os.eventfd_read(self._wake)
                elif (wire := self._wires.get(key.data)) is not None:
                    self._attend(key.data, wire)
            self._deliver()

    def _take_messages(self) -> bool:
        """Connects what was plugged in; returns whether the hub goes on."""
        with contextlib.suppress(queue.Empty):
            while (message := self._plugged.get_nowait()) is not None:
                port, connection = message
                self._unplug(port)
                self._wires[port] = _Wire(connection)
                self._selector.register(connection, selectors.EVENT_READ, port)
            return False
        return True

    def _unplug(self, port: int) -> None:
        if wire := self._wires.pop(port, None):
            self._selector.unregister(wire.connection)
            wire.connection.close()

    def _attend(self, port: int, wire: _Wire) -> None:
        try:
            for frame in wire.receive():
                self._forward(port, frame)
            self._write(port, wire)
        except (OSError, EOFError):
            self._unplug(port)

    def _forward(self, port: int, frame: bytes) -> None:
        """Sends a frame where its destination was seen, or everywhere else if that was nowhere."""
        destination, source = frame[:6], frame[6:12]
        if len(self._whereabouts) > _SENDERS:
            self._whereabouts.clear()
        self._whereabouts[source] = port
        known = None if destination[0] & 1 else self._whereabouts.get(destination)
        for other in [known] if known is not None else list(self._wires):
            if other != port:
                self._send(port, other, frame)

    def _send(self, port: int, other: int, frame: bytes) -> None:
        link = self.link(port, other)
        delay = link.admit(upward=port < other)
        if delay is None:
            return
        if len(self._under_way) >= _HELD:
            link.overrun()
            return
        heapq.heappush(self._under_way, (time.monotonic() + delay, next(self._order), port, other, frame))

    def _until_next(self) -> float | None:
        return max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, _, port, other, frame = heapq.heappop(self._under_way)
            link, wire = self.link(port, other), self._wires.get(other)
            if wire is None:
                continue
            if not wire.has_room:
                link.overrun()
            elif link.arrive():
                wire.send(frame)
                self._write(other, wire)

    def _write(self, port: int, wire: _Wire) -> None:
        """Writes what the wire takes, and waits for it to take more only where something is left."""
        try:
            wire.flush()
        except OSError:
            self._unplug(port)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.is_waiting else 0)
        if self._selector.get_key(wire.connection).events != events:
            self._selector.modify(wire.connection, events, port)


class _Wire:
    """Frames to and from one socket, which never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._unread = bytearray()
        self._unsent: collections.deque[memoryview] = collections.deque()

    @property
    def is_waiting(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._unsent)

    @property
    def has_room(self) -> bool:
        """Whether one more frame is held."""
        return len(self._unsent) < _HELD

    def receive(self) -> Iterator[bytes]:
        """The frames that have come.

        Raises:
            EOFError: the far end hung up, or what it says are no frames.
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
        """Takes a frame; `flush` sends it."""
        self._unsent.append(memoryview(_LENGTH.pack(len(frame)) + frame))

    def flush(self) -> None:
        """Sends as much as the far end takes."""
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                sent = self.connection.send(self._unsent[0])
                self._unsent[0] = self._unsent[0][sent:]
                if not self._unsent[0]:
                    self._unsent.popleft()
