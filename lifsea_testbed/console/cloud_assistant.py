"""Cloud Assistant's port: whether whatever serves it in the guest is there, which needs no shell.

Source: aliyun_assist_client, agent/channel/channel_gshell_unix.go: JSON lines on the port `org.qemu.guest_agent.0`;
`guest-sync` answers with the number that it was given. QEMU's own guest agent answers alike.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket

from lifsea_testbed.console.socket_io import SocketStream, StreamClosed
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness

#: How often an assistant that is silent is asked again (seconds); the real client polls every 0.2 s.
_EVERY = 0.5
#: A guest that writes without a line's end is not listened to any longer (bytes).
_LONGEST_LINE = 65_536


class CloudAssistant:
    """Our end of the port."""

    def __init__(self, connection: socket.socket, *, liveness: Liveness) -> None:
        self._wire = SocketStream(connection)
        self._liveness = liveness
        self._numbers = itertools.count(1)
        self._received = b""

    def answers(self, deadline: Deadline) -> bool:
        """Asks until the assistant answers, and returns whether it did before the deadline.

        Raises:
            GuestCrashed, LaunchError: the machine ended first.
        """
        asked = set[int]()
        with contextlib.suppress(StreamClosed):
            while not deadline.expired:
                number = next(self._numbers)
                asked.add(number)
                self._wire.send(json.dumps({"execute": "guest-sync", "arguments": {"id": number}}).encode() + b"\n")
                if self._answered(asked, Deadline.after(min(_EVERY, deadline.remaining))):
                    return True
        return False

    def close(self) -> None:
        """Hangs up."""
        self._wire.close()

    def _answered(self, asked: set[int], deadline: Deadline) -> bool:
        while not deadline.expired:
            self._received += self._wire.receive(deadline, self._liveness)
            *lines, self._received = self._received.split(b"\n")
            self._received = self._received[-_LONGEST_LINE:]
            if any(_returned(line) in asked for line in lines):
                return True
        return False


def _returned(line: bytes) -> object:
    """What a line returns, if it is an answer; a guest may write anything."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    returned = answer.get("return") if isinstance(answer, dict) else None
    return returned if isinstance(returned, int) else None
