"""How often a port is greeted: once until it is opened, and again when it is opened again."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from lifsea_testbed.console import channel as channel_module
from lifsea_testbed.console.channel import PortChannel
from lifsea_testbed.errors import WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness

SOON = 30.0


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, PortChannel]]:
    """The guest's end of a port, and a channel over it."""
    guest, host = socket.socketpair()
    liveness = Liveness()
    channel = PortChannel(host, liveness=liveness)
    try:
        yield guest, channel
    finally:
        guest.close()
        channel.close()
        liveness.close()


def received_within(guest: socket.socket, seconds: float) -> bytes:
    """What arrives at the guest's end in that time."""
    deadline, received = Deadline.after(seconds), b""
    while not deadline.expired:
        guest.settimeout(max(0.01, deadline.remaining))
        with contextlib.suppress(TimeoutError):
            received += guest.recv(65536)
    return received


def test_one_greeting_waits_at_a_port_that_nobody_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the wait: many would fill the device, and all be answered once it is opened."""
    monkeypatch.setattr(channel_module, "_GREETING_EVERY", 0.01)
    with connected() as (guest, channel):
        with pytest.raises(WaitTimedOut, match="no shell answered on the command channel within 0 s"):
            channel.greet(Deadline.after(0.4))
        assert received_within(guest, 0.1).count(b"hello ") == 1


def test_a_port_that_was_opened_again_is_greeted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reader may have taken the greeting with it; and a port that is open may be read by somebody else."""
    monkeypatch.setattr(channel_module, "_GREETING_EVERY", 0.05)
    with connected() as (guest, channel):
        def serve() -> None:
            assert received_within(guest, 0.3).count(b"hello ") == 1
            channel.port_closed()
            assert received_within(guest, 0.3).count(b"hello ") == 1
            channel.port_opened()
            received = received_within(guest, 0.3)
            assert received.count(b"hello ") > 1
            guest.sendall(b"channel " + received.split()[1] + b" hello boot\n")

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        assert channel.greet(Deadline.after(SOON)) == "boot"
        serving.join()
