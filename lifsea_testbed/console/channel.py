"""The command channel: scripts in, status and output out, every byte intact, deadlines kept on the host."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from lifsea_testbed.console import port_frames
from lifsea_testbed.console.socket_io import SocketStream, StreamClosed, StreamStalled
from lifsea_testbed.errors import ChannelError, Explained, HostError, NotJudged, Reason, WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.protocols import CommandResult
from lifsea_testbed.support.sanitize import first_line

#: The most output that is accepted from one command (bytes), so that a faulty guest cannot fill the host's memory.
LARGEST_ANSWER = 256 << 20
#: How long a killed command may take to end, and a restarted shell to answer (seconds, on the host).
GRACE = 10.0
#: How long a guest may send nothing in the middle of an answer (seconds, on the host).
IDLE = 30.0
_NO_SHELL = "the image offers no shell: only what the disk holds can be read"
#: A greeting waits in the device until the guest opens the port. To a port that is open it is sent again after so long
#: (seconds), in case its reader took it for something else.
_GREETING_EVERY = 5.0


class Channel(Protocol):
    """A connection to a root shell in the guest, over any device; one command at a time."""

    def greet(self, deadline: Deadline) -> str:
        """Sends greetings until the shell in the guest answers; returns the boot id.

        Raises:
            WaitTimedOut: no shell answered in time.
        """
        ...

    def run(self, script: str, *, input: bytes = b"", deadline: Deadline) -> CommandResult:
        """Runs a script of the POSIX shell and returns its result.

        Raises:
            WaitTimedOut: it exceeded the deadline, or its output did; it was killed with its process group, and the
                channel stays usable.
            ChannelError: the shell in the guest exited or broke the protocol; the next command greets it again.
        """
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


class NoChannel:
    """The channel of a machine whose image offers no shell: every command is *not judged*."""

    def greet(self, deadline: Deadline) -> str:
        """Raises NotJudged."""
        raise NotJudged(_NO_SHELL, Reason.IMAGE)

    def run(self, script: str, *, input: bytes = b"", deadline: Deadline) -> CommandResult:
        """Raises NotJudged."""
        raise NotJudged(_NO_SHELL, Reason.IMAGE)

    def close(self) -> None:
        """Does nothing."""


class PortChannel:
    """A connection to channel.sh over the socket of its virtio-serial port."""

    def __init__(self, connection: socket.socket, *, liveness: Liveness) -> None:
        self._stream = SocketStream(connection)
        self._machine = liveness
        self._shell = Liveness()
        self._doing = ""
        liveness.on_end(self._end_with_machine)
        self._turn = threading.Lock()
        self._received = bytearray()
        self._in_step, self._is_open = True, False

    def greet(self, deadline: Deadline) -> str:
        """Sends greetings until the shell answers, and discards everything before the answer; returns the boot id.

        To a port that the guest has not opened, one greeting is sent.

        Raises:
            WaitTimedOut: no shell answered in time.
        """
        nonce, self._doing, is_waiting = new_nonce(), "greeting the shell", False
        while not deadline.expired:
            self._expect_shell()
            attempt = deadline.at_most(_GREETING_EVERY)
            try:
                if self._is_open or not is_waiting:
                    self._send(port_frames.hello(nonce), attempt)
                is_waiting = True
                boot_id = self._await_hello(nonce, attempt)
            except WaitTimedOut:
                continue
            except ChannelError:
                if not self._shell.ended:  # the guest may open a closed port again; any other error is final
                    raise
                is_waiting = False
            else:
                self._in_step = True
                return boot_id
        raise WaitTimedOut(f"no shell answered on the command channel within {deadline.allowance:.0f} s")

    def run(self, script: str, *, input: bytes = b"", deadline: Deadline) -> CommandResult:
        """Runs a script of the POSIX shell and returns its result.

        Raises:
            WaitTimedOut: it exceeded the deadline, or its output did; it was killed with its process group, and the
                channel stays usable.
            ChannelError: the shell in the guest exited or broke the protocol; the next command greets it again.
        """
        with self._turn:
            self._resynchronise()
            self._doing = running(script)
            nonce, started = new_nonce(), time.monotonic()
            try:
                self._send(port_frames.run(nonce, script, input), deadline)
                header = self._receive_header(nonce, deadline)
            except WaitTimedOut:
                raise self._overrun(nonce, script, deadline) from None
            body = self._receive_body(header, deadline)
        return CommandResult(
            script=script, exit_status=header.status, output=body[: header.output], errors=body[header.output :],
            duration=time.monotonic() - started,
        )  # fmt: skip

    def lend(self, program: str, nonce: str, deadline: Deadline) -> port_frames.ResultHeader:
        """Starts a program in the guest that reads the port itself (see `give`), and returns its first result.

        Status 0 means that it is ready; with any other it has ended, and the channel is usable again.

        Raises:
            WaitTimedOut: it did not answer in time.
            ChannelError: the program exited or broke the protocol.
        """
        with self._turn:
            self._resynchronise()
            self._doing = running(program)
            self._send(port_frames.lend(nonce, program), deadline)
            header = self._receive_header(nonce, deadline)
            self._receive_body(header, deadline)
        return header

    def give(self, data: bytes, nonce: str, deadline: Deadline) -> tuple[port_frames.ResultHeader, bytes]:
        """Sends input to the program that `lend` started and returns its last result; the channel is usable again.

        Raises:
            WaitTimedOut: it did not answer in time.
            ChannelError: the program exited or broke the protocol.
        """
        with self._turn:
            self._send(data, deadline)
            header = self._receive_header(nonce, deadline)
            return header, self._receive_body(header, deadline)

    def port_opened(self) -> None:
        """Records that a process in the guest has opened the port."""
        self._is_open = True

    def port_closed(self) -> None:
        """Records that no process in the guest has the port open any more: waits for a result end."""
        self._is_open = False
        self._shell.end(lambda: ChannelError(
            f"the test bed's shell in the guest exited (its virtio-serial port was closed) while {self._doing}",
            expected="channel.sh keeps its port open",
            hint="see the guest's journal: something killed lifsea-testbed-shell.service"))  # fmt: skip

    def close(self) -> None:
        """Closes the connection."""
        self._stream.close()
        self._shell.close()

    def _end_with_machine(self) -> None:
        self._shell.end(self._machine.reason)

    def _resynchronise(self) -> None:
        """Greets the shell again after it exited, or after an answer that was not in the protocol."""
        self._expect_shell()
        if not self._in_step:
            try:
                self.greet(Deadline.after(GRACE))
            except WaitTimedOut as error:
                raise ChannelError("the test bed's shell in the guest does not answer any more",
                                   evidence=error.happened, hint="see the guest's journal") from None

    def _expect_shell(self) -> None:
        """Lets waits block again after the port was closed; raises the reason if the machine has ended."""
        self._machine.check()
        if self._shell.ended:
            self._shell.close()
            self._shell = Liveness()
            self._machine.on_end(self._end_with_machine)
            self._in_step = False

    def _await_hello(self, nonce: str, deadline: Deadline) -> str:
        """Returns the boot id of the answer, and discards everything before it."""
        expected = f"channel {nonce} hello ".encode()
        while (start := self._received.find(expected)) < 0:
            del self._received[: -len(expected)]
            self._receive_more(deadline)
        del self._received[:start]
        header = port_frames.parse_header(self._receive_line(deadline), nonce)
        assert isinstance(header, port_frames.Hello)
        return header.boot_id

    def _receive_header(self, nonce: str, deadline: Deadline) -> port_frames.ResultHeader:
        with self._in_step_afterwards():
            header = self._next_header(nonce, deadline)
            if header.output + header.errors > LARGEST_ANSWER:
                raise ChannelError(f"the guest announced {header.output + header.errors} bytes of output while "
                                   f"{self._doing}", expected=f"at most {LARGEST_ANSWER}")
            return header

    def _receive_body(self, header: port_frames.ResultHeader, deadline: Deadline) -> bytes:
        """Receives the announced bytes: all before the deadline, and never none of them for too long."""
        size = header.output + header.errors
        with self._in_step_afterwards():
            idle = deadline.at_most(IDLE)
            while (received := len(self._received)) < size:
                if idle.expired:
                    raise self._too_little(size, deadline)
                with contextlib.suppress(WaitTimedOut):
                    self._receive_more(idle)
                if len(self._received) > received:
                    idle = deadline.at_most(IDLE)
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def _too_little(self, size: int, deadline: Deadline) -> Explained:
        got = f"{len(self._received)} of {size} bytes of output"
        if deadline.expired:
            return too_late(f"only {got} arrived", self._doing, deadline)
        return ChannelError(f"the guest sent only {got} that it announced while {self._doing}",
                            expected=f"more of them within {IDLE:.0f} s")

    @contextlib.contextmanager
    def _in_step_afterwards(self) -> Iterator[None]:
        """Has the shell greeted again before the next command unless all that is received here was received."""
        self._in_step = False
        yield
        self._in_step = True

    def _next_header(self, nonce: str, deadline: Deadline) -> port_frames.ResultHeader:
        line = self._receive_line(deadline)
        while b" hello " in line:  # the late answer to a greeting that was sent more than once
            line = self._receive_line(deadline)
        header = port_frames.parse_header(line, nonce, self._doing)
        if isinstance(header, port_frames.Hello):
            raise ChannelError(f"protocol error on the command channel while {self._doing}: a greeting",
                               expected="the header of a result", evidence=repr(line))
        return header

    def _overrun(self, nonce: str, script: str, deadline: Deadline) -> Explained:
        """Kills the command, receives its output so far, and returns the error to raise."""
        killing = Deadline.after(GRACE)
        try:
            self._send(port_frames.kill(nonce), killing)
            header = self._receive_header(nonce, killing)
        except WaitTimedOut:
            return overrun(script, deadline)
        try:
            body = self._receive_body(header, killing)
        except WaitTimedOut:
            body = bytes(self._received)
        return overrun(script, deadline, printed=body[: header.output])

    def _send(self, data: bytes, deadline: Deadline) -> None:
        try:
            self._stream.send(data, deadline, self._shell)
        except StreamStalled as error:
            self._in_step = False
            if deadline.expired:
                raise WaitTimedOut(f"{error} while {self._doing}") from error
            raise ChannelError(f"the command channel stalled while {self._doing}: {error}") from error
        except StreamClosed as error:
            raise self._broken(error) from error

    def _broken(self, error: StreamClosed) -> Explained:
        """The error for a stream that QEMU closed, as no guest can: mostly its end is known a moment later."""
        self._machine.wait(Deadline.after(1.0))
        self._machine.check()
        return HostError(f"the command channel broke while {self._doing}: {error}")

    def _receive_line(self, deadline: Deadline) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > port_frames.LONGEST_HEADER:
                seen = bytes(self._received[: port_frames.LONGEST_HEADER])
                raise ChannelError(f"protocol error on the command channel while {self._doing}: no line end in "
                                   f"{len(seen)} bytes", expected="the header of a result", evidence=repr(seen))
            self._receive_more(deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _receive_more(self, deadline: Deadline) -> None:
        """Receives what has arrived, or arrives before the deadline.

        Raises:
            WaitTimedOut: the deadline has passed, even if the guest sends without pause.
        """
        if deadline.expired:
            raise WaitTimedOut("nothing was received on the command channel")
        try:
            self._received += self._stream.receive(deadline, self._shell)
        except StreamClosed as error:
            raise self._broken(error) from error


def too_late(arrived: str, doing: str, deadline: Deadline) -> WaitTimedOut:
    """Returns the error for output that the guest announced and of which only that much `arrived` in time."""
    return WaitTimedOut(f"{arrived} within {deadline.allowance:.0f} s while {doing}",
                        hint="the guest announced them and sends no more, or a longer deadline is needed")


def overrun(script: str, deadline: Deadline, *, printed: bytes | None = None) -> WaitTimedOut:
    """Returns the error for a command that exceeded its deadline: with its output so far if it could be killed."""
    if printed is None:
        return WaitTimedOut(f"a command took over {deadline.allowance:.0f} s and could not be killed: {script}",
                            hint="the guest hangs, or QEMU does not run it")
    return WaitTimedOut(f"a command took more than {deadline.allowance:.0f} s and was killed: {script}",
                        evidence=printed.decode("utf-8", "replace")[-2000:])


def running(script: str) -> str:
    """Returns a phrase for errors: the first line of the script that was running."""
    return f"running {first_line(script)!r}"


def new_nonce() -> str:
    """Returns sixteen hexadecimal digits that no guest can guess."""
    return secrets.token_hex(8)
