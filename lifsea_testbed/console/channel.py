"""The command channel: scripts in, status and output out, every byte intact, deadlines kept on the host."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from dataclasses import dataclass

from lifsea_testbed.console import frames
from lifsea_testbed.console.wire import HungUp, Wire
from lifsea_testbed.deadline import Deadline
from lifsea_testbed.errors import ChannelError, Explained, WaitTimedOut
from lifsea_testbed.lifeline import Lifeline

#: The largest answer that is taken from a guest (bytes): more is a guest that runs away.
LARGEST_ANSWER = 1 << 30
#: How long a killed command may take to be gone (seconds, on the host).
_GRACE = 10.0
#: The slowest channel that is borne with (bytes a second): 115200 baud.
_SLOWEST = 11_520
#: A greeting waits in the device until somebody opens the port; one that a dying reader took is sent again (seconds).
_GREETING_EVERY = 5.0


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """How a command in the guest ended: its status (128 + n after signal n), its output and errors, seconds taken."""

    script: str
    exit_status: int
    output: bytes
    errors: bytes
    duration: float

    @property
    def ok(self) -> bool:
        """Whether the status was 0."""
        return self.exit_status == 0

    @property
    def stdout(self) -> str:
        """The output as text; bytes that are not UTF-8 are replaced."""
        return self.output.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """The errors as text."""
        return self.errors.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        """The output's lines that are not empty."""
        return [line for line in self.stdout.splitlines() if line]


class Channel:
    """One conversation with channel.sh over a socket that leads to its port; one command at a time."""

    def __init__(self, connection: socket.socket, *, lifeline: Lifeline) -> None:
        self._wire = Wire(connection)
        self._lifeline = lifeline
        self._turn = threading.Lock()
        self._received = bytearray()
        self._broken: Explained | None = None

    def greet(self, deadline: Deadline) -> str:
        """Greets until the guest's end answers; returns the boot id.

        Raises:
            WaitTimedOut: nobody answered in time.
        """
        nonce = _nonce()
        while True:
            self._send(frames.hello(nonce))
            with contextlib.suppress(WaitTimedOut):
                return self._await_hello(nonce, Deadline.after(min(_GREETING_EVERY, deadline.remaining)))
            if deadline.expired:
                raise WaitTimedOut(f"no shell opened on the channel within {deadline.allowance:.0f} s")

    def run(self, script: str, *, given: bytes = b"", deadline: Deadline) -> CommandResult:
        """Runs a script of the POSIX shell and returns how it ended.

        Raises:
            WaitTimedOut: it overran; it was killed with its process group, and the channel goes on.
            ChannelError: the guest's end broke the protocol; the channel is of no more use and says so from now on.
        """
        with self._turn:
            if self._broken is not None:
                raise self._broken
            nonce, started = _nonce(), time.monotonic()
            self._send(frames.run(nonce, script.encode(), given))
            try:
                header, body = self._receive_result(nonce, deadline)
            except WaitTimedOut:
                raise self._overrun(nonce, script, deadline) from None
        return CommandResult(
            script=script, exit_status=header.status, output=body[: header.output], errors=body[header.output :],
            duration=time.monotonic() - started,
        )  # fmt: skip

    def close(self) -> None:
        """Hangs up."""
        self._wire.close()

    def _await_hello(self, nonce: str, deadline: Deadline) -> str:
        while True:
            line = self._receive_line(deadline)
            with contextlib.suppress(ChannelError):
                header = frames.parse_header(line, nonce)
                if isinstance(header, frames.Hello):
                    return header.boot_id

    def _receive_result(self, nonce: str, deadline: Deadline) -> tuple[frames.ResultHeader, bytes]:
        try:
            header = self._next_header(nonce, deadline)
            if header.output + header.errors > LARGEST_ANSWER:
                raise ChannelError(f"the guest announced {header.output + header.errors} bytes of output",
                                   expected=f"at most {LARGEST_ANSWER}")
            size = header.output + header.errors
            return header, self._receive(size, Deadline.after(_GRACE + size / _SLOWEST))
        except ChannelError as error:
            self._broken = error
            raise

    def _next_header(self, nonce: str, deadline: Deadline) -> frames.ResultHeader:
        line = self._receive_line(deadline)
        while b" hello " in line:  # a late answer to a greeting that was sent twice
            line = self._receive_line(deadline)
        header = frames.parse_header(line, nonce)
        if isinstance(header, frames.Hello):
            raise ChannelError("the guest's end greeted instead of answering")
        return header

    def _overrun(self, nonce: str, script: str, deadline: Deadline) -> Explained:
        """Kills the command, takes what it printed, and returns the error to raise."""
        self._send(frames.kill(nonce))
        try:
            header, body = self._receive_result(nonce, Deadline.after(_GRACE))
        except WaitTimedOut:
            self._broken = ChannelError(f"the channel fell silent after an overrun of: {script}")
            return self._broken
        printed = body[: header.output].decode("utf-8", "replace")[-2000:]
        return WaitTimedOut(f"a command took more than {deadline.allowance:.0f} s and was killed: {script}",
                            evidence=printed)

    def _send(self, data: bytes) -> None:
        try:
            self._wire.send(data)
        except HungUp as error:
            raise self._hung_up(error) from error

    def _hung_up(self, error: HungUp) -> Explained:
        """Returns why the wire was closed: mostly the machine ended, which the lifeline learns a moment later."""
        self._lifeline.wait(Deadline.after(1.0))
        self._lifeline.check()
        return ChannelError(f"QEMU closed the channel: {error}")

    def _receive_line(self, deadline: Deadline) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > frames.LONGEST_HEADER:
                raise ChannelError("no header in sight", evidence=repr(bytes(self._received[: frames.LONGEST_HEADER])))
            self._receive_more(deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _receive(self, size: int, deadline: Deadline) -> bytes:
        try:
            while len(self._received) < size:
                self._receive_more(deadline)
        except WaitTimedOut:
            raise ChannelError(f"only {len(self._received)} of {size} announced bytes came") from None
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def _receive_more(self, deadline: Deadline) -> None:
        try:
            data = self._wire.receive(deadline, self._lifeline)
        except HungUp as error:
            raise self._hung_up(error) from error
        if not data and deadline.expired:
            raise WaitTimedOut("the channel is silent")
        self._received += data


def _nonce() -> str:
    return secrets.token_hex(8)
