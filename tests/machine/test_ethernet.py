"""The switch carries, loses, delays and cuts off frames as its links are set; on socket pairs, without a machine."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from lifsea_testbed.machine.ethernet import FrameCount, Switch

BROADCAST = b"\xff" * 6
A_WHILE = 0.15


class Station:
    """A peer on one port that sends and receives frames as QEMU does."""

    def __init__(self, switch: Switch, port: int) -> None:
        self.address = bytes([0, 0x16, 0x3E, 0, 0, port])
        self.socket = switch.plug(port)
        self.socket.settimeout(5.0)

    def send(self, destination: bytes, payload: bytes = b"") -> None:
        frame = destination + self.address + b"\x88\xb5" + payload
        self.socket.sendall(struct.pack(">I", len(frame)) + frame)

    def receive(self, within: float = 5.0) -> bytes | None:
        """The payload of the next frame, or None if none arrives."""
        self.socket.settimeout(within)
        with contextlib.suppress(TimeoutError):
            (length,) = struct.unpack(">I", self._read(4))
            return self._read(length)[14:]
        return None

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the switch closed the connection"
            data += more
        return data


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch(3) as made:
        yield made


@pytest.fixture
def stations(switch: Switch) -> Iterator[list[Station]]:
    """Three stations that the switch knows."""
    made = [Station(switch, port) for port in range(3)]
    for station in made:
        station.send(BROADCAST, b"hello")
        for other in made:
            assert other is station or other.receive() == b"hello"
    yield made
    for station in made:
        station.socket.close()


def test_a_frame_reaches_its_destination_alone(switch: Switch, stations: list[Station]) -> None:
    one, two, three = stations
    one.send(two.address, b"for two")
    assert two.receive() == b"for two"
    assert three.receive(A_WHILE) is None
    assert switch.link(0, 1).count == FrameCount(carried=3)
    assert switch.link(1, 0) is switch.link(0, 1)


def test_a_frame_to_an_unknown_address_goes_to_every_port(stations: list[Station]) -> None:
    one, two, three = stations
    one.send(b"\x00\x16\x3e\x99\x99\x99", b"who")
    assert two.receive() == three.receive() == b"who"


def test_a_cut_link_carries_nothing_and_a_restored_one_does(switch: Switch, stations: list[Station]) -> None:
    one, two, three = stations
    switch.link(0, 1).cut()
    one.send(BROADCAST, b"cut")
    assert three.receive() == b"cut"
    assert two.receive(A_WHILE) is None
    assert switch.link(0, 1).count == FrameCount(carried=2, cut=1)
    switch.link(0, 1).restore()
    one.send(two.address, b"whole")
    assert two.receive() == b"whole"


def test_a_delay_is_kept_both_ways_and_in_order(switch: Switch, stations: list[Station]) -> None:
    one, two, _ = stations
    switch.link(0, 1).delay(0.1)
    started = time.monotonic()
    for number in b"abc":
        one.send(two.address, bytes([number]))
    assert [two.receive() for _ in "abc"] == [b"a", b"b", b"c"]
    assert time.monotonic() - started >= 0.1
    two.send(one.address, b"back")
    assert one.receive() == b"back"
    assert 0.2 <= time.monotonic() - started < 2.0


def test_frames_in_flight_are_lost_when_a_link_is_cut(switch: Switch, stations: list[Station]) -> None:
    one, two, three = stations
    switch.link(0, 1).delay(0.05)
    one.send(BROADCAST, b"late")
    assert three.receive() == b"late"
    switch.link(0, 1).cut()
    assert two.receive(A_WHILE) is None
    assert switch.link(0, 1).count == FrameCount(carried=2, cut=1)


def survivors(seed: int, count: int = 200) -> list[bytes | None]:
    """The frames that arrive out of so many over a link that loses a third."""
    with Switch(2) as switch:
        one, two = Station(switch, 0), Station(switch, 1)
        one.send(BROADCAST)
        assert two.receive() is not None
        switch.link(0, 1).lose(1 / 3, seed=seed)
        for number in range(count):
            one.send(two.address, struct.pack(">H", number))
        count_now = switch.link(0, 1).count
        while count_now.carried - 1 + count_now.lost < count:
            time.sleep(0.005)
            count_now = switch.link(0, 1).count
        arrived = [two.receive() for _ in range(count_now.carried - 1)]
        one.socket.close()
        two.socket.close()
        return arrived


def test_loss_is_as_large_as_set_and_the_seed_determines_which() -> None:
    first = survivors(seed=7)
    assert 100 < len(first) < 166
    assert survivors(seed=7) == first
    assert survivors(seed=8) != first


def test_a_new_connection_replaces_the_old_one(switch: Switch, stations: list[Station]) -> None:
    one, two, _ = stations
    again = Station(switch, 1)
    assert two.socket.recv(1) == b""
    one.send(BROADCAST, b"again")
    assert again.receive() == b"again"
    again.socket.close()


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xff", b"\0\0\0\1", b"\0\0\0\0"], ids=["huge", "tiny", "empty"])
def test_a_peer_that_sends_no_frames_is_unplugged_and_the_others_are_served(
    stations: list[Station], nonsense: bytes
) -> None:
    one, two, three = stations
    one.socket.sendall(nonsense + b"x" * 20)
    assert one.socket.recv(1) == b""
    two.send(three.address, b"still")
    assert three.receive() == b"still"


def test_frames_may_arrive_in_pieces_and_together(stations: list[Station]) -> None:
    one, two, _ = stations
    frame = two.address + one.address + b"\x88\xb5"
    framed = struct.pack(">I", len(frame)) + frame
    for byte in framed:
        one.socket.send(bytes([byte]))
    one.socket.sendall(framed * 50)
    assert [two.receive() for _ in range(51)] == [b""] * 51


def test_a_station_that_does_not_read_delays_no_other(switch: Switch, stations: list[Station]) -> None:
    one, two, three = stations
    for _ in range(6000):
        one.send(two.address, b"x" * 1000)
    one.send(three.address, b"here")
    assert three.receive() == b"here"
    assert switch.link(0, 1).count.overrun > 0


def test_a_switch_that_is_left_closes_its_connections() -> None:
    with Switch(2) as switch:
        ends: list[socket.socket] = [switch.plug(0), switch.plug(1)]
    assert [end.recv(1) for end in ends] == [b"", b""]
    for end in ends:
        end.close()


def test_a_queue_is_bounded_in_bytes(switch: Switch, stations: list[Station]) -> None:
    """A peer that reads nothing: what waits for it, and what is delayed on its link, has an end."""
    frame = bytes(60_000)
    switch.link(0, 1).delay(0.01)
    for _ in range(600):
        stations[0].send(stations[1].address, frame)
    deadline = time.monotonic() + 30.0
    while switch.link(0, 1).count.overrun == 0 and time.monotonic() < deadline:
        stations[0].send(stations[1].address, frame)
    assert switch.link(0, 1).count.overrun > 0
    assert switch._bytes_in_flight + switch._streams[1]._bytes_unsent <= 2 * ((16 << 20) + 70_000)
