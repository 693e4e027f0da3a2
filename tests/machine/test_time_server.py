"""The time servers on a machine's own segment: real frames over real connections."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from lifsea_testbed.machine.time_server import TimeServer
from tests.ecs.test_time_frames import arp, ntp, timestamp, udp


def framed(frame: bytes) -> bytes:
    return struct.pack(">I", len(frame)) + frame


def received(connection: socket.socket) -> bytes:
    connection.settimeout(10.0)
    (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
    return connection.recv(length, socket.MSG_WAITALL)


def test_the_time_is_that_of_the_host() -> None:
    with TimeServer() as server, server.plug() as guest:
        before = time.time()
        guest.sendall(framed(udp("100.100.61.88", 123, ntp())))
        told = timestamp(received(guest), 42 + 40) - 2208988800
        assert before - 0.001 <= told <= time.time() + 0.001


def test_each_power_on_has_a_connection_of_its_own() -> None:
    with TimeServer() as server:
        with server.plug() as first:
            first.sendall(framed(arp("100.100.61.88"))[:9])
        with server.plug() as second:
            second.sendall(framed(b"x" * 60) + framed(arp("100.100.61.88")))
            assert received(second)[12:14] == b"\x08\x06"


def test_a_guest_that_sends_no_frames_is_unplugged_and_others_are_served() -> None:
    with TimeServer() as server, server.plug() as broken, server.plug() as sound:
        broken.sendall(b"\xff" * 4)
        broken.settimeout(10.0)
        assert broken.recv(1) == b""
        sound.sendall(framed(arp("100.100.61.88")))
        assert received(sound)


def test_nothing_is_left_when_it_ends() -> None:
    with TimeServer() as server:
        guest = server.plug()
    guest.settimeout(10.0)
    with guest:
        assert guest.recv(1) == b""


def test_a_flood_is_answered_no_more_than_a_thousand_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 7.5)
    server = TimeServer()
    assert [server._may_answer() for _ in range(1002)] == [True] * 1000 + [False] * 2
    monkeypatch.setattr(time, "monotonic", lambda: 8.0)
    assert server._may_answer()
    with server:
        pass
