"""The command channel: scripts in, status and output out, every byte intact, deadlines kept on the host."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from typing import Protocol

from lifsea_testbed.console import port_frames
from lifsea_testbed.console.socket_io import SocketStream, StreamClosed
from lifsea_testbed.errors import ChannelError, Explained, NotJudged, WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.protocols import CommandResult

#: The largest answer that is taken from a guest (bytes): more is a guest that runs away.
LARGEST_ANSWER = 1 << 30
#: How long a killed command may take to be gone, and a restarted shell to answer (seconds, on the host).
GRACE = 10.0
#: The slowest channel that is borne with (bytes a second): 115200 baud.
SLOWEST = 11_520
#: A greeting waits in the device until somebody opens the port; one that a dying reader took is sent again (seconds).
_GREETING_EVERY = 5.0


class Channel(Protocol):
    """A conversation with a root shell in the guest, whatever it is carried by; one command at a time."""

    def greet(self, deadline: Deadline) -> str:
        """Greets until the guest's end answers; returns the boot id.

        Raises:
            WaitTimedOut: nobody answered in time.
        """
        ...

    def run(self, script: str, *, input: bytes = b"", deadline: Deadline) -> CommandResult:
        """Runs a script of the POSIX shell and returns how it ended.

        Raises:
            WaitTimedOut: it overran; it was killed with its process group, and the channel goes on.
            ChannelError: the guest's end went away or broke the protocol; the next command greets it anew.
        """
        ...

    def close(self) -> None:
        """Hangs up."""
        ...


class NoChannel:
    """What stands in for a channel where the image offers no shell: every question is *not judged*."""

    def greet(self, deadline: Deadline) -> str:
        """Raises NotJudged."""
        raise NotJudged("the image offers no shell to ask")

    def run(self, script: str, *, input: bytes = b"", deadline: Deadline) -> CommandResult:
        """Raises NotJudged."""
        raise NotJudged("the image offers no shell to ask")

    def close(self) -> None:
        """Does nothing."""


class PortChannel:
    """One conversation with channel.sh over a socket that leads to its virtio-serial port."""

    def __init__(self, connection: socket.socket, *, liveness: Liveness) -> None:
        self._wire = SocketStream(connection)
        self._machine = liveness
        self._shell = Liveness()
        liveness.on_end(self._end_with_machine)
        self._turn = threading.Lock()
        self._received = bytearray()
        self._in_step = True

    def greet(self, deadline: Deadline) -> str:
        """Greets until the guest's end answers, over whatever else is still under way; returns the boot id.

        Raises:
            WaitTimedOut: nobody answered in time.
        """
        nonce = new_nonce()
        while not deadline.expired:
            self._expect_shell()
            self._send(port_frames.hello(nonce))
            try:
                boot_id = self._await_hello(nonce, Deadline.after(min(_GREETING_EVERY, deadline.remaining)))
            except WaitTimedOut:
                continue
            except ChannelError:
                if not self._shell.ended:  # a port that somebody closed may be opened again; anything else is final
                    raise
            else:
                self._in_step = True
                return boot_id
        raise WaitTimedOut(f"no shell opened on the channel within {deadline.allowance:.0f} s")

    def run(self, script: str, *, input: bytes = b"", deadline: Deadline) -> CommandResult:
        """Runs a script of the POSIX shell and returns how it ended.

        Raises:
            WaitTimedOut: it overran; it was killed with its process group, and the channel goes on.
            ChannelError: the guest's end went away or broke the protocol; the next command greets it anew.
        """
        with self._turn:
            self._get_in_step()
            nonce, started = new_nonce(), time.monotonic()
            self._send(port_frames.run(nonce, script, input))
            try:
                header, body = self._receive_result(nonce, deadline)
            except WaitTimedOut:
                raise self._overrun(nonce, script, deadline) from None
        return CommandResult(
            script=script, exit_status=header.status, output=body[: header.output], errors=body[header.output :],
            duration=time.monotonic() - started,
        )  # fmt: skip

    def lend(self, program: str, nonce: str, deadline: Deadline) -> port_frames.ResultHeader:
        """Gives the turn to a program in the guest, which reads what `give` sends it, and returns its first answer.

        Status 0 says that it is ready; with any other it has ended, and the channel goes on.

        Raises:
            WaitTimedOut: it did not answer in time.
            ChannelError: the guest's end went away or broke the protocol.
        """
        with self._turn:
            self._get_in_step()
            self._send(port_frames.lend(nonce, program))
            return self._receive_result(nonce, deadline)[0]

    def give(self, data: bytes, nonce: str, deadline: Deadline) -> tuple[port_frames.ResultHeader, bytes]:
        """Sends the program that was lent the turn what it reads, and returns its last answer; the channel goes on.

        Raises:
            WaitTimedOut: it did not answer in time.
            ChannelError: the guest's end went away or broke the protocol.
        """
        with self._turn:
            self._send(data)
            return self._receive_result(nonce, deadline)

    def port_closed(self) -> None:
        """Takes note that nobody in the guest has the port open any more: whatever was asked is not answered."""
        self._shell.end(lambda: ChannelError("the guest's end of the channel went away",
                                             expected="channel.sh keeps its port open",
                                             hint="see the journal: something killed the shell"))  # fmt: skip

    def close(self) -> None:
        """Hangs up."""
        self._wire.close()
        self._shell.close()

    def _end_with_machine(self) -> None:
        self._shell.end(self._machine.reason)

    def _get_in_step(self) -> None:
        """Greets anew after the shell went away, or said something that nobody asked for."""
        self._expect_shell()
        if not self._in_step:
            try:
                self.greet(Deadline.after(GRACE))
            except WaitTimedOut as error:
                raise ChannelError("the guest's end of the channel does not answer any more",
                                   evidence=error.happened) from None

    def _expect_shell(self) -> None:
        """Lets waits last again after the port was closed; raises the reason if the machine is gone."""
        self._machine.check()
        if self._shell.ended:
            self._shell.close()
            self._shell = Liveness()
            self._machine.on_end(self._end_with_machine)
            self._in_step = False

    def _await_hello(self, nonce: str, deadline: Deadline) -> str:
        """Returns the boot id of the answer, passing over everything before it."""
        expected = f"channel {nonce} hello ".encode()
        while (start := self._received.find(expected)) < 0:
            del self._received[: -len(expected)]
            self._receive_more(deadline)
        del self._received[:start]
        header = port_frames.parse_header(self._receive_line(deadline), nonce)
        assert isinstance(header, port_frames.Hello)
        return header.boot_id

    def _receive_result(self, nonce: str, deadline: Deadline) -> tuple[port_frames.ResultHeader, bytes]:
        try:
            header = self._next_header(nonce, deadline)
            if header.output + header.errors > LARGEST_ANSWER:
                raise ChannelError(f"the guest announced {header.output + header.errors} bytes of output",
                                   expected=f"at most {LARGEST_ANSWER}")
            size = header.output + header.errors
            return header, self._receive(size, Deadline.after(GRACE + size / SLOWEST))
        except ChannelError:
            self._in_step = False
            raise

    def _next_header(self, nonce: str, deadline: Deadline) -> port_frames.ResultHeader:
        line = self._receive_line(deadline)
        while b" hello " in line:  # a late answer to a greeting that was sent twice
            line = self._receive_line(deadline)
        header = port_frames.parse_header(line, nonce)
        if isinstance(header, port_frames.Hello):
            raise ChannelError("the guest's end greeted instead of answering")
        return header

    def _overrun(self, nonce: str, script: str, deadline: Deadline) -> Explained:
        """Kills the command, takes what it printed, and returns the error to raise."""
        self._send(port_frames.kill(nonce))
        try:
            header, body = self._receive_result(nonce, Deadline.after(GRACE))
        except WaitTimedOut:
            self._in_step = False
            return overrun(script, deadline)
        return overrun(script, deadline, printed=body[: header.output])

    def _send(self, data: bytes) -> None:
        try:
            self._wire.send(data)
        except StreamClosed as error:
            raise self._hung_up(error) from error

    def _hung_up(self, error: StreamClosed) -> Explained:
        """Returns why the wire was closed: mostly the machine ended, which the liveness learns a moment later."""
        self._machine.wait(Deadline.after(1.0))
        self._machine.check()
        return ChannelError(f"QEMU closed the channel: {error}")

    def _receive_line(self, deadline: Deadline) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > port_frames.LONGEST_HEADER:
                seen = bytes(self._received[: port_frames.LONGEST_HEADER])
                raise ChannelError("no header in sight", evidence=repr(seen))
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
            data = self._wire.receive(deadline, self._shell)
        except StreamClosed as error:
            raise self._hung_up(error) from error
        if not data and deadline.expired:
            raise WaitTimedOut("the channel is silent")
        self._received += data


def overrun(script: str, deadline: Deadline, *, printed: bytes | None = None) -> WaitTimedOut:
    """Returns the error for a command that took too long: with what it had printed if it could be killed."""
    if printed is None:
        return WaitTimedOut(f"a command took over {deadline.allowance:.0f} s and could not be killed: {script}",
                            hint="the guest hangs, or is not being run")
    return WaitTimedOut(f"a command took more than {deadline.allowance:.0f} s and was killed: {script}",
                        evidence=printed.decode("utf-8", "replace")[-2000:])


def new_nonce() -> str:
    """Returns sixteen hexadecimal digits that nobody can guess."""
    return secrets.token_hex(8)
