"""The cloud's time servers answer what a guest asks on the wire, and nothing else."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifsea_testbed.ecs import time_frames
from lifsea_testbed.ecs.time_frames import MAC, NAMED_ADDRESS, answer

GUEST, SLIRP = bytes.fromhex("00163e0a0b0c"), bytes.fromhex("525564640002")
NOW = 1795939200.5
#: 2036-02-07T06:28:16Z, when the seconds of NTP start again at 0.
NEXT_ERA = (1 << 32) - 2208988800


def packed(address: str) -> bytes:
    return socket.inet_aton(address)


def arp(target: str, operation: int = 1) -> bytes:
    return (b"\xff" * 6 + GUEST + struct.pack(">HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation) + GUEST
            + packed("100.100.7.15") + bytes(6) + packed(target) + bytes(18))  # fmt: skip


def udp(destination: str, port: int, payload: bytes, *, to: bytes = MAC, protocol: int = 17, fragment: int = 0,
        options: bytes = b"") -> bytes:  # fmt: skip
    words = 5 + len(options) // 4
    header = struct.pack(">BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + 8 + len(payload), 7, fragment, 64, protocol, 0,
                         packed("100.100.7.15"), packed(destination)) + options  # fmt: skip
    return to + GUEST + b"\x08\x00" + header + struct.pack(">HHHH", 40000, port, 8 + len(payload), 0) + payload


def ntp(first: int = 0x23, transmitted: bytes = b"whenever") -> bytes:
    return bytes([first]) + bytes(39) + transmitted


def query(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 0xABCD, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def payload(frame: bytes | None) -> bytes:
    assert frame is not None
    return frame[42:]


def timestamp(text: bytes, start: int) -> float:
    seconds, fraction = struct.unpack_from(">II", text, start)
    return float(seconds) + float(fraction) / (1 << 32)


@pytest.mark.parametrize("target", ["100.100.61.88", NAMED_ADDRESS, "100.100.2.138"])
def test_arp_finds_the_servers(target: str) -> None:
    reply = answer(arp(target), NOW)
    assert reply is not None and reply[:6] == GUEST and reply[6:12] == reply[22:28] == MAC
    assert (reply[20:22], reply[28:32], reply[32:38]) == (b"\0\2", packed(target), GUEST)


@pytest.mark.parametrize("frame", [arp("100.100.2.136"), arp("100.100.100.200"), arp("100.100.7.15"),
                                   arp("100.100.61.88", operation=2)])  # fmt: skip
def test_arp_of_others_is_left_to_them(frame: bytes) -> None:
    """QEMU's user network answers for itself, its services, and the first name server."""
    assert answer(frame, NOW) is None


@pytest.mark.parametrize("options", [b"", b"\x01\x01\x01\x00"])
def test_a_client_gets_the_time_and_its_own_time_stamp_back(options: bytes) -> None:
    frame = answer(udp("100.100.61.88", 123, ntp(), options=options), NOW)
    text = payload(frame)
    assert frame is not None and frame[:12] == GUEST + MAC and len(text) == 48
    assert (text[0], text[1], text[24:32]) == (0x24, 1, b"whenever")
    assert timestamp(text, 32) == timestamp(text, 40) == NOW + 2208988800


def test_a_request_of_version_3_is_answered_in_version_3() -> None:
    assert payload(answer(udp(NAMED_ADDRESS, 123, ntp(0x1B)), NOW))[0] == 0x1C


def test_time_goes_on_in_the_next_era_of_ntp() -> None:
    assert timestamp(payload(answer(udp("100.100.61.88", 123, ntp()), NEXT_ERA + 2.5)), 40) == 2.5


def test_the_header_of_an_answer_has_the_right_checksum() -> None:
    frame = answer(udp("100.100.61.88", 123, ntp()), NOW)
    assert frame is not None
    total = sum(struct.unpack(">10H", frame[14:34]))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert (frame[26:30], frame[30:34]) == (packed("100.100.61.88"), packed("100.100.7.15"))
    assert struct.unpack_from(">HHH", frame, 34) == (123, 40000, 56)


@pytest.mark.parametrize("destination", ["100.100.2.136", "100.100.2.138"])
def test_the_name_of_a_server_is_resolved(destination: str) -> None:
    frame = answer(udp(destination, 53, query("NTP.cloud.aliyuncs.com"), to=SLIRP), NOW)
    text = payload(frame)
    assert frame is not None and frame[6:12] == SLIRP
    assert struct.unpack_from(">HHHHHH", text) == (0xABCD, 0x8580, 1, 1, 0, 0)
    assert text.endswith(struct.pack(">HHHIH", 0xC00C, 1, 1, 300, 4) + packed(NAMED_ADDRESS))


def test_the_name_has_no_address_of_ipv6() -> None:
    text = payload(answer(udp("100.100.2.136", 53, query("ntp.cloud.aliyuncs.com", 28)), NOW))
    assert struct.unpack_from(">HHHHHH", text)[2:] == (1, 0, 0, 0)
    assert text[12:] == query("ntp.cloud.aliyuncs.com", 28)[12:]


@pytest.mark.parametrize("frame", [
    udp("100.100.2.136", 53, query("example.org")),
    udp("100.100.61.88", 53, query("ntp.cloud.aliyuncs.com")),
    udp("100.100.61.88", 124, ntp()), udp("100.100.9.9", 123, ntp()), udp("100.100.61.88", 123, ntp(0x24)),
    udp("100.100.61.88", 123, ntp(0x2B)), udp("100.100.61.88", 123, ntp()[:40]),
    udp("100.100.61.88", 123, ntp(), protocol=6), udp("100.100.61.88", 123, ntp(), fragment=0x2000),
    udp("100.100.61.88", 123, b""), b"", bytes(14),
])  # fmt: skip
def test_anything_else_has_no_answer(frame: bytes) -> None:
    assert answer(frame, NOW) is None


@given(st.binary(max_size=90), st.integers(min_value=0, max_value=90))
def test_no_frame_of_a_guest_is_an_error(noise: bytes, place: int) -> None:
    for frame in (arp("100.100.61.88"), udp("100.100.61.88", 123, ntp()), udp("100.100.2.136", 53, query("a.b"))):
        answer(frame[:place] + noise, NOW)
        answer(frame[:place] + noise + frame[place + len(noise) :], NOW)


def test_the_addresses_are_those_of_the_metadata_service() -> None:
    assert time_frames.ADDRESSES == (NAMED_ADDRESS, "100.100.61.88")
