"""The cloud's time servers on the wire: the answer to each Ethernet frame of a guest that looks for the time.

ARP (RFC 826), IPv4 (RFC 791), UDP (RFC 768), NTP version 3 and 4 (RFC 5905), DNS (RFC 1035): no more of each than such
a guest needs. Frames of anything else have no answer.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

from lifsea_testbed.ecs.instance import NAME_SERVERS, TIME_SERVERS

#: The MAC address of the servers (locally administered), and the address that the name of the first one resolves to.
MAC = bytes.fromhex("02100a3d5801")
NAMED_ADDRESS = "100.100.3.1"
_IPV4, _ARP, _UDP = 0x0800, 0x0806, 17
_NTP_PORT, _DNS_PORT = 123, 53
#: Seconds from the epoch of NTP (1900) to that of Unix.
_EPOCH = 2208988800
#: The server's quality: stratum 1, precision 2^-20 s, no root delay, root dispersion 2^-10 s, reference "LOCL".
_QUALITY = struct.pack(">bbIII", 6, -20, 0, 1 << 6, int.from_bytes(b"LOCL", "big"))
_TYPE_A, _CLASS_IN, _TIME_TO_LIVE = 1, 1, 300
_ADDRESS_OF = {name: NAMED_ADDRESS for name in TIME_SERVERS if not name.replace(".", "").isdigit()}
#: The addresses that are answered for; the name server of DHCP is QEMU's own, which drops what it is sent.
ADDRESSES = (NAMED_ADDRESS, *(name for name in TIME_SERVERS if name not in _ADDRESS_OF))


def answer(frame: bytes, now: float) -> bytes | None:
    """Returns the frame that answers this one at that time (seconds since the epoch), or None."""
    try:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == _ARP:
            return _arp(frame)
        return _ipv4(frame, now) if kind == _IPV4 else None
    except (struct.error, IndexError, UnicodeDecodeError):
        return None


def _arp(frame: bytes) -> bytes | None:
    operation: int
    sender_mac: bytes
    sender: bytes
    target: bytes
    operation, sender_mac, sender, _, target = struct.unpack_from(">6xH6s4s6s4s", frame, 14)
    if operation != 1 or _text(target) not in (*ADDRESSES, *NAME_SERVERS[1:]):
        return None
    return sender_mac + MAC + struct.pack(">HHHBBH", _ARP, 1, _IPV4, 6, 4, 2) + MAC + target + sender_mac + sender


def _ipv4(frame: bytes, now: float) -> bytes | None:
    header = (frame[14] & 15) * 4
    protocol, source, destination = struct.unpack_from(">9xB2x4s4s", frame, 14)
    fragment = int.from_bytes(frame[20:22], "big")
    if protocol != _UDP or fragment & 0x3FFF:
        return None
    here, there, length = struct.unpack_from(">HHH", frame, 14 + header)
    payload = frame[14 + header + 8 : 14 + header + length]
    served = {_NTP_PORT: ADDRESSES, _DNS_PORT: NAME_SERVERS}
    reply = None
    if _text(destination) in served.get(there, ()):
        reply = _ntp(payload, now) if there == _NTP_PORT else _dns(payload)
    if reply is None:
        return None
    return frame[6:12] + frame[:6] + struct.pack(">H", _IPV4) + _datagram(destination, source, there, here, reply)


def _ntp(request: bytes, now: float) -> bytes | None:
    """The answer to a client's request (mode 3); it is received and answered at once."""
    version, mode = request[0] >> 3 & 7, request[0] & 7
    if mode != 3 or version not in (3, 4) or len(request) < 48:
        return None
    time = struct.pack(">Q", int((now + _EPOCH) * (1 << 32)) & ((1 << 64) - 1))
    return bytes([version << 3 | 4, 1]) + _QUALITY + time + request[40:48] + time + time


def _dns(query: bytes) -> bytes | None:
    """The answer to a question for one of the names: its address, or that it has none of that type."""
    identifier, flags, questions = struct.unpack_from(">HHH", query)
    name, end = _name(query)
    kind, group = struct.unpack_from(">HH", query, end)
    if flags >> 15 or questions != 1 or name not in _ADDRESS_OF:
        return None
    answers = kind == _TYPE_A and group == _CLASS_IN
    packed = ipaddress.IPv4Address(_ADDRESS_OF[name]).packed
    record = struct.pack(">HHHIH", 0xC00C, _TYPE_A, _CLASS_IN, _TIME_TO_LIVE, 4) + packed
    head = struct.pack(">HHHHHH", identifier, 0x8580 | flags & 0x0100, 1, int(answers), 0, 0)
    return head + query[12 : end + 4] + (record if answers else b"")


def _name(query: bytes) -> tuple[str, int]:
    """The name that is asked for, in lower case, and where it ends."""
    labels, place = list[str](), 12
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode("ascii").lower())
        place += 1 + length
    return ".".join(labels), place + 1


def _datagram(source: bytes, destination: bytes, here: int, there: int, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram; without a checksum of its own, which IPv4 allows."""
    length = 8 + len(payload)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0x4000, 64, _UDP, 0, source, destination)
    return (header[:10] + struct.pack(">H", _checksum(header)) + header[12:]
            + struct.pack(">HHHH", here, there, length, 0) + payload)  # fmt: skip


def _checksum(header: bytes) -> int:
    """The checksum of an IPv4 header whose own field is 0 (RFC 1071)."""
    words: Sequence[int] = struct.unpack(f">{len(header) // 2}H", header)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _text(address: bytes) -> str:
    return str(ipaddress.IPv4Address(address))
