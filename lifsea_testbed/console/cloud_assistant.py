"""Cloud Assistant's port: detects, without a shell, a process in the guest that serves it.

Source: aliyun_assist_client, agent/channel/channel_gshell_unix.go: JSON lines on the port `org.qemu.guest_agent.0`;
`guest-sync` answers with the number of the request. QEMU's own guest agent answers in the same way.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket

from lifsea_testbed.console.socket_io import SocketStream, StreamClosed, StreamStalled
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness

#: How often the request is repeated (seconds); the real client polls every 0.2 s.
_EVERY = 0.5
#: The longest line that is buffered (bytes).
_LONGEST_LINE = 65_536


class CloudAssistant:
    """The host's end of the port."""

    def __init__(self, connection: socket.socket, *, liveness: Liveness) -> None:
        self._stream = SocketStream(connection)
        self._liveness = liveness
        self._numbers = itertools.count(1)
        self._received = b""

    def answers(self, deadline: Deadline) -> bool:
        """Repeats the request until the assistant answers; returns whether it did before the deadline.

        Raises:
            GuestCrashed, LaunchError: the machine ended first.
        """
        sent = set[int]()
        with contextlib.suppress(StreamClosed, StreamStalled):
            while not deadline.expired:
                number = next(self._numbers)
                sent.add(number)
                request = json.dumps({"execute": "guest-sync", "arguments": {"id": number}}).encode() + b"\n"
                self._stream.send(request, deadline, self._liveness)
                if self._answered(sent, deadline.at_most(_EVERY)):
                    return True
        return False

    def close(self) -> None:
        """Closes the connection."""
        self._stream.close()

    def _answered(self, sent: set[int], deadline: Deadline) -> bool:
        while not deadline.expired:
            self._received += self._stream.receive(deadline, self._liveness)
            *lines, self._received = self._received.split(b"\n")
            self._received = self._received[-_LONGEST_LINE:]
            if any(_returned(line) in sent for line in lines):
                return True
        return False


def _returned(line: bytes) -> object:
    """The number that a line returns, or None if it is no answer: the guest is not trusted."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    returned = answer.get("return") if isinstance(answer, dict) else None
    return returned if isinstance(returned, int) else None
