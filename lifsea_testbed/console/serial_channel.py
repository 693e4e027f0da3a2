"""The command channel on a terminal that is not ours alone: ttyS0, onto which the kernel prints as well.

What we send arrives; what comes back may be torn by others (console/lines.py). So the guest keeps every answer until it
was fetched whole, each request can be repeated, and the pieces of an answer shrink while they are torn.
"""

from __future__ import annotations

import base64
import binascii
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lifsea_testbed.console.channel import GRACE, LARGEST_ANSWER, SLOWEST, new_nonce, overrun
from lifsea_testbed.console.serial_frames import Frame, octal
from lifsea_testbed.errors import ChannelError, WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.digest import same
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.protocols import CommandResult

#: A request is said again after so long (seconds).
_PATIENCE = 1.0
#: Bytes of one answer's piece: as few as a kernel that prints without pause lets through, as many as fit in a frame.
_SMALLEST, _FIRST, _LARGEST = 48, 6_000, 96_000
#: A terminal that keeps to lines takes 4095 bytes of one (termios(3), canonical mode); the rest is the request's head.
_LONGEST_TEXT = 3_400


class SerialLine(Protocol):
    """A terminal that somebody else reads, and gives the frames of."""

    def send(self, data: bytes) -> None:
        """Types those bytes."""
        ...


@dataclass(frozen=True, kw_only=True)
class CommandEnd:
    """How a command ended, and what there is to fetch: sizes in bytes, digests as the guest's tool says them."""

    status: int
    output: int
    errors: int
    output_digest: str
    errors_digest: str

    @classmethod
    def parse(cls, payload: bytes) -> CommandEnd:
        """Reads the payload of a frame `end`.

        Raises:
            ChannelError: it is not in the grammar.
        """
        words = payload.decode("ascii", "replace").split(":")
        if len(words) != 5 or not all(word.isdigit() and len(word) < 12 for word in words[:3]):
            raise ChannelError("the guest's end of the channel answered out of turn", evidence=repr(payload[:200]))
        status, output, errors = map(int, words[:3])
        if output + errors > LARGEST_ANSWER:
            raise ChannelError(f"the guest announced {output + errors} bytes of output")
        return cls(status=status, output=output, errors=errors, output_digest=words[3], errors_digest=words[4])


class SerialChannel:
    """One conversation with terminal.sh over a terminal."""

    def __init__(self, terminal: SerialLine, *, liveness: Liveness) -> None:
        self._terminal = terminal
        self._liveness = liveness
        self._turn = threading.Lock()
        self._arrived: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._nonce = ""
        self._base64 = False
        liveness.on_end(lambda: self._arrived.put(None))

    def on_frame(self, frame: Frame) -> bool:
        """Takes a frame that was seen on the terminal, if it answers what was asked; returns whether it did."""
        wanted = frame.nonce == self._nonce
        if wanted:
            self._arrived.put(frame)
        return wanted

    def greet(self, deadline: Deadline) -> str:
        """Greets until the guest's end answers; returns the boot id.

        Raises:
            WaitTimedOut: nobody answered in time.
        """
        nonce = self._begin()
        frame = self._ask(f"hello {nonce}", ("hello",), "", deadline)
        boot_id, _, code = frame.payload.decode("ascii", "replace").partition(":")
        self._base64 = code == "base64"
        return boot_id

    def wait_for_shell(self, deadline: Deadline) -> None:
        """Returns when a shell at a prompt has printed a frame: its echo of the line, and its prompt, are not one.

        Raises:
            WaitTimedOut: no shell did.
        """
        self._ask(rf"printf '\036%s %s %s %s\n' {self._begin()} ready 1 0", ("ready",), "", deadline)

    def run(self, script: str, *, input: bytes = b"", deadline: Deadline) -> CommandResult:
        """Runs a script of the POSIX shell and returns how it ended.

        Raises:
            WaitTimedOut: it overran; it was killed with its process group, and the channel goes on.
            ChannelError: the guest's end broke the protocol, or its answer could not be had whole.
        """
        with self._turn:
            nonce, started = self._begin(), time.monotonic()
            self._put(nonce, "script", script.encode(), deadline)
            self._put(nonce, "input", input, deadline)
            end = self._await_end(nonce, script, deadline)
            output = self._fetch(nonce, "out", end.output, end.output_digest)
            errors = self._fetch(nonce, "err", end.errors, end.errors_digest)
            self._terminal.send(f"drop {nonce}\n".encode())
        return CommandResult(script=script, exit_status=end.status, output=output, errors=errors,
                             duration=time.monotonic() - started)  # fmt: skip

    def close(self) -> None:
        """Does nothing: the terminal belongs to the transcript."""

    def _begin(self) -> str:
        self._nonce = new_nonce()
        return self._nonce

    def _put(self, nonce: str, name: str, data: bytes, deadline: Deadline) -> None:
        for number, text in enumerate(pieces(data, as_base64=self._base64)):
            self._ask(f"put {nonce} {name} {number:08} {text}", ("put",), f"{name}:{number:08}", deadline)

    def _await_end(self, nonce: str, script: str, deadline: Deadline) -> CommandEnd:
        try:
            frame = self._ask(f"run {nonce}", ("running", "end"), "", deadline)
            while frame.kind != "end":
                frame = self._next(("end",), "", min(_PATIENCE * 5, deadline.remaining)) \
                    or self._ask(f"ask {nonce}", ("running", "end"), "", deadline)
                if frame.kind != "end" and deadline.expired:
                    raise WaitTimedOut("still running")
            return CommandEnd.parse(frame.payload)
        except WaitTimedOut:
            raise self._overrun(nonce, script, deadline) from None

    def _overrun(self, nonce: str, script: str, deadline: Deadline) -> WaitTimedOut:
        """Kills the command, takes what it printed, and returns the error to raise."""
        killing = Deadline.after(GRACE)
        try:
            self._terminal.send(f"kill {nonce}\n".encode())
            while (frame := self._ask(f"ask {nonce}", ("running", "end"), "", killing)).kind != "end":
                if killing.expired:
                    raise WaitTimedOut("still running")
                self._liveness.pause(0.1, killing)
            end = CommandEnd.parse(frame.payload)
            printed = self._fetch(nonce, "out", min(end.output, 2000), "")
        except WaitTimedOut:
            return overrun(script, deadline)
        return overrun(script, deadline, printed=printed)

    def _fetch(self, nonce: str, name: str, size: int, digest: str) -> bytes:
        data, length = bytearray(), _FIRST
        deadline = Deadline.after(GRACE + 20 * size / SLOWEST)
        while len(data) < size:
            length = min(length, size - len(data))
            part = self._part(nonce, name, len(data), length)
            if part is None and deadline.expired:
                raise ChannelError(f"only {len(data)} of {size} announced bytes came", hint="the terminal is flooded")
            data += part or b""
            length = max(_SMALLEST, length // 2) if part is None else min(_LARGEST, length * 2)
        if not same(bytes(data), digest):
            raise ChannelError("what came over the terminal is not what the command printed", evidence=digest)
        return bytes(data)

    def _part(self, nonce: str, name: str, offset: int, length: int) -> bytes | None:
        """One piece of an answer; nothing if it was torn."""
        self._terminal.send(f"get {nonce} {name} {offset} {length}\n".encode())
        frame = self._next(("part",), f"{name}:{offset}:", _PATIENCE + 2 * length / SLOWEST)
        if frame is None:
            return None
        text = frame.payload.rpartition(b":")[2]
        try:
            data = base64.b64decode(text, validate=True) if self._base64 else bytes.fromhex(text.decode("ascii"))
        except (binascii.Error, ValueError):
            return None
        return data if len(data) == length else None

    def _ask(self, request: str, kinds: tuple[str, ...], start: str, deadline: Deadline) -> Frame:
        """Says it again and again until a frame of one of those kinds, whose payload starts so, answers.

        Raises:
            WaitTimedOut: none came.
        """
        while True:
            self._terminal.send(f"{request}\n".encode())
            frame = self._next(kinds, start, min(_PATIENCE, deadline.remaining))
            if frame is not None:
                return frame
            if deadline.expired:
                raise WaitTimedOut(f"no shell answered on the terminal within {deadline.allowance:.0f} s")

    def _next(self, kinds: tuple[str, ...], start: str, seconds: float) -> Frame | None:
        """The next frame of those kinds that comes within so many seconds; others are passed over."""
        deadline = Deadline.after(seconds)
        while True:
            self._liveness.check()
            try:
                frame = self._arrived.get(timeout=deadline.remaining)
            except queue.Empty:
                return None
            fits = frame is not None and frame.nonce == self._nonce and frame.kind in kinds
            if frame is not None and fits and frame.payload.startswith(start.encode()):
                return frame


def pieces(data: bytes, *, as_base64: bool) -> Iterator[str]:
    """Yields the data in pieces that fit in one line of a terminal, as the guest's end can read them."""
    if as_base64:
        step = _LONGEST_TEXT // 4 * 3
        yield from (base64.b64encode(data[at:at + step]).decode() for at in range(0, len(data), step))
        return
    piece = ""
    for byte in data:
        word = octal(bytes([byte])).decode()
        if len(piece) + len(word) > _LONGEST_TEXT:
            yield piece
            piece = ""
        piece += word
    if piece:
        yield piece
