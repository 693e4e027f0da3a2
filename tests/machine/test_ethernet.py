"""The hub carries frames, and loses, delays and cuts as it is told; on socket pairs, without a machine."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from lifsea_testbed.machine.ethernet import Count, Hub

EVERYBODY = b"\xff" * 6
A_WHILE = 0.15


class Station:
    """One plugged-in end that speaks QEMU's frames."""

    def __init__(self, hub: Hub, port: int) -> None:
        self.address = bytes([0, 0x16, 0x3E, 0, 0, port])
        self.wire = hub.plug(port)
        self.wire.settimeout(5.0)

    def send(self, destination: bytes, payload: bytes = b"") -> None:
        frame = destination + self.address + b"\x88\xb5" + payload
        self.wire.sendall(struct.pack(">I", len(frame)) + frame)

    def receive(self, within: float = 5.0) -> bytes | None:
        """The payload of the next frame, or nothing if none comes."""
        self.wire.settimeout(within)
        with contextlib.suppress(TimeoutError):
            (length,) = struct.unpack(">I", self._read(4))
            return self._read(length)[14:]
        return None

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.wire.recv(count - len(data))
            assert more, "the hub hung up"
            data += more
        return data


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(3) as made:
        yield made


@pytest.fixture
def stations(hub: Hub) -> Iterator[list[Station]]:
    """Three stations that the hub has seen."""
    made = [Station(hub, port) for port in range(3)]
    for station in made:
        station.send(EVERYBODY, b"hello")
        for other in made:
            assert other is station or other.receive() == b"hello"
    yield made
    for station in made:
        station.wire.close()


def test_a_frame_reaches_whom_it_is_for_and_nobody_else(hub: Hub, stations: list[Station]) -> None:
    one, two, three = stations
    one.send(two.address, b"for two")
    assert two.receive() == b"for two"
    assert three.receive(A_WHILE) is None
    assert hub.link(0, 1).count == Count(carried=3)
    assert hub.link(1, 0) is hub.link(0, 1)


def test_a_frame_for_somebody_unknown_goes_to_everybody(stations: list[Station]) -> None:
    one, two, three = stations
    one.send(b"\x00\x16\x3e\x99\x99\x99", b"who")
    assert two.receive() == three.receive() == b"who"


def test_a_cut_link_carries_nothing_and_a_restored_one_does(hub: Hub, stations: list[Station]) -> None:
    one, two, three = stations
    hub.link(0, 1).cut()
    one.send(EVERYBODY, b"cut")
    assert three.receive() == b"cut"
    assert two.receive(A_WHILE) is None
    assert hub.link(0, 1).count == Count(carried=2, cut=1)
    hub.link(0, 1).restore()
    one.send(two.address, b"whole")
    assert two.receive() == b"whole"


def test_a_delay_is_kept_both_ways_and_in_order(hub: Hub, stations: list[Station]) -> None:
    one, two, _ = stations
    hub.link(0, 1).delay(0.1)
    started = time.monotonic()
    for number in b"abc":
        one.send(two.address, bytes([number]))
    assert [two.receive() for _ in "abc"] == [b"a", b"b", b"c"]
    assert time.monotonic() - started >= 0.1
    two.send(one.address, b"back")
    assert one.receive() == b"back"
    assert 0.2 <= time.monotonic() - started < 2.0


def test_what_is_under_way_when_a_link_is_cut_is_lost(hub: Hub, stations: list[Station]) -> None:
    one, two, three = stations
    hub.link(0, 1).delay(0.05)
    one.send(EVERYBODY, b"late")
    assert three.receive() == b"late"
    hub.link(0, 1).cut()
    assert two.receive(A_WHILE) is None
    assert hub.link(0, 1).count == Count(carried=2, cut=1)


def survivors(seed: int, count: int = 200) -> list[bytes | None]:
    """What arrives of so many frames over a link that loses a third."""
    with Hub(2) as hub:
        one, two = Station(hub, 0), Station(hub, 1)
        one.send(EVERYBODY)
        assert two.receive() is not None
        hub.link(0, 1).lose(1 / 3, seed=seed)
        for number in range(count):
            one.send(two.address, struct.pack(">H", number))
        hub_count = hub.link(0, 1).count
        while hub_count.carried - 1 + hub_count.lost < count:
            time.sleep(0.005)
            hub_count = hub.link(0, 1).count
        arrived = [two.receive() for _ in range(hub_count.carried - 1)]
        one.wire.close()
        two.wire.close()
        return arrived


def test_loss_is_as_large_as_was_said_and_the_seed_says_which() -> None:
    first = survivors(seed=7)
    assert 100 < len(first) < 166
    assert survivors(seed=7) == first
    assert survivors(seed=8) != first


def test_a_new_wire_takes_the_place_of_the_old_one(hub: Hub, stations: list[Station]) -> None:
    one, two, _ = stations
    again = Station(hub, 1)
    assert two.wire.recv(1) == b""
    one.send(EVERYBODY, b"again")
    assert again.receive() == b"again"
    again.wire.close()


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xff", b"\0\0\0\1", b"\0\0\0\0"], ids=["huge", "tiny", "empty"])
def test_who_speaks_no_frames_is_unplugged_and_the_others_go_on(
    stations: list[Station], nonsense: bytes
) -> None:
    one, two, three = stations
    one.wire.sendall(nonsense + b"x" * 20)
    assert one.wire.recv(1) == b""
    two.send(three.address, b"go on")
    assert three.receive() == b"go on"


def test_frames_may_come_in_pieces_and_at_once(stations: list[Station]) -> None:
    one, two, _ = stations
    frame = two.address + one.address + b"\x88\xb5"
    framed = struct.pack(">I", len(frame)) + frame
    for byte in framed:
        one.wire.send(bytes([byte]))
    one.wire.sendall(framed * 50)
    assert [two.receive() for _ in range(51)] == [b""] * 51


def test_a_station_that_does_not_read_holds_up_nobody(hub: Hub, stations: list[Station]) -> None:
    one, two, three = stations
    for _ in range(6000):
        one.send(two.address, b"x" * 1000)
    one.send(three.address, b"here")
    assert three.receive() == b"here"
    assert hub.link(0, 1).count.overrun > 0


def test_a_hub_that_is_left_hangs_up() -> None:
    with Hub(2) as hub:
        wires: list[socket.socket] = [hub.plug(0), hub.plug(1)]
    assert [wire.recv(1) for wire in wires] == [b"", b""]
    for wire in wires:
        wire.close()
