"""The command channel on a shared serial line: ttyS0, on which the kernel prints as well.

Requests arrive intact; answers may be interrupted by other output (console/serial_frames.py). So the guest keeps every
answer until it was fetched completely, each request can be repeated, and answers are fetched in smaller pieces while
they arrive damaged.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import enum
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lifsea_testbed.console.channel import GRACE, IDLE, LARGEST_ANSWER, new_nonce, overrun, running, too_late
from lifsea_testbed.console.serial_frames import Frame, octal
from lifsea_testbed.errors import ChannelError, Explained, WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.digest import same
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.protocols import CommandResult

#: A request is repeated after so long (seconds).
_REPEAT_EVERY = 1.0
#: A line that is typed at a prompt is typed again after that, then after twice as long, up to this (seconds): a busy
#: shell answers each that it finds later.
_LONGEST_PAUSE = 30.0
#: The slowest line for which a request waits before it is repeated (bytes a second): 115200 baud.
_SLOWEST = 11_520
#: Bytes in one piece of an answer: so few that a kernel that prints without pause lets them through, to a whole frame.
_SMALLEST, _FIRST, _LARGEST = 48, 6_000, 96_000
#: The frames that wait to be read (each of at most 1 MiB): an answer is one, or few. More of a guest are dropped.
_MOST_WAITING = 64
#: A terminal in canonical mode accepts lines of 4095 bytes (termios(3)); the rest is for the words before the text.
_LONGEST_TEXT = 3_400

#: Prints a frame with the place of the shell that reads it: one of an initramfs if systemd's mark of one is there
#: (initrd-release(5)), or if the kernel was to mount a root (kernel-parameters.txt, root=) and / still is the rootfs.
_READY = (
    r"""c= f= p=system; while read -r d m t o; do [ "$m" != / ] || f=$t; done </proc/mounts; """
    r"""read -r c </proc/cmdline; [ "$f" != rootfs ] || """
    r"""case " $c" in *" root=/dev/ram"*) ;; *" root="*) p=initramfs ;; esac; """
    r"""[ ! -e /etc/initrd-release ] || p=initramfs; printf '\036%s %s %s %s\n' {nonce} ready ${{#p}} $p"""
)


class ShellPlace(enum.StrEnum):
    """Where a shell at a console's prompt runs: in the system, or in the initramfs that was to mount its root."""

    SYSTEM = "system"
    INITRAMFS = "initramfs"


class SerialLine(Protocol):
    """A serial line that another object reads; that object passes its frames to the channel."""

    def transmit(self, data: bytes, deadline: Deadline) -> None:
        """Sends those bytes to the guest.

        Raises:
            WaitTimedOut: the guest did not read its input before the deadline.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CommandEnd:
    """How a command ended, and the output to fetch: sizes in bytes, digests as printed by the guest's tool."""

    status: int
    output: int
    errors: int
    output_digest: str
    errors_digest: str

    @classmethod
    def parse(cls, payload: bytes, doing: str = "") -> CommandEnd:
        """Parses the payload of a frame `end`; `doing` names the command for the error.

        Raises:
            ChannelError: it is not in the grammar.
        """
        words = payload.decode("ascii", "replace").split(":")
        if len(words) != 5 or not all(word.isdigit() and len(word) < 12 for word in words[:3]):
            raise ChannelError(f"protocol error on the command channel while {doing}: not the end of a command",
                               expected="STATUS:SIZE:SIZE:DIGEST:DIGEST", evidence=repr(payload[:200]))
        status, output, errors = map(int, words[:3])
        if output + errors > LARGEST_ANSWER:
            raise ChannelError(f"the guest announced {output + errors} bytes of output while {doing}",
                               expected=f"at most {LARGEST_ANSWER}")
        return cls(status=status, output=output, errors=errors, output_digest=words[3], errors_digest=words[4])


class SerialChannel:
    """A connection to terminal.sh over a serial line."""

    def __init__(self, line: SerialLine, *, liveness: Liveness) -> None:
        self._line = line
        self._liveness = liveness
        self._turn = threading.Lock()
        self._arrived: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._nonce, self._ready, self._pause = "", new_nonce(), _REPEAT_EVERY
        self._base64 = False
        liveness.on_end(lambda: self._arrived.put(None))

    def on_frame(self, frame: Frame) -> bool:
        """Handles a frame received on the line; returns whether it answers the current request."""
        is_ours = frame.nonce == self._nonce
        if is_ours and self._arrived.qsize() < _MOST_WAITING:
            self._arrived.put(frame)
        return is_ours

    def greet(self, deadline: Deadline) -> str:
        """Sends greetings until the shell in the guest answers; returns the boot id.

        Raises:
            WaitTimedOut: no shell answered in time.
        """
        nonce = self._begin()
        frame = self._request(f"hello {nonce}", ("hello",), "", deadline)
        boot_id, _, code = frame.payload.decode("ascii", "replace").partition(":")
        self._base64 = code == "base64"
        return boot_id

    def wait_for_shell(self, deadline: Deadline) -> ShellPlace:
        """Waits until a shell at its prompt has printed a frame, and returns where it runs; an echo is not a frame.

        What an earlier call typed counts as well, and the pause until the line is typed again grows.

        Raises:
            WaitTimedOut: no shell did so in time.
        """
        self._nonce = self._ready
        request = f"{_READY.format(nonce=self._ready)}\n".encode()
        while not deadline.expired:
            self._line.transmit(request, deadline)
            frame = self._next(("ready",), "", min(self._pause, deadline.remaining))
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
            if frame is not None:
                return _place(frame)
        raise WaitTimedOut(f"no shell answered at a prompt of the serial line within {deadline.allowance:.0f} s")

    def run(self, script: str, *, input: bytes = b"", deadline: Deadline) -> CommandResult:
        """Runs a script of the POSIX shell and returns its result.

        Raises:
            WaitTimedOut: it exceeded the deadline, or its output did; it was killed with its process group, and the
                channel stays usable.
            ChannelError: the shell broke the protocol, or its answer could not be fetched intact.
        """
        with self._turn:
            nonce, started = self._begin(), time.monotonic()
            self._put(nonce, "script", script.encode(), deadline)
            self._put(nonce, "input", input, deadline)
            end = self._await_end(nonce, script, deadline)
            try:
                output = self._fetch(nonce, "out", end.output, end.output_digest, running(script), deadline)
                errors = self._fetch(nonce, "err", end.errors, end.errors_digest, running(script), deadline)
            finally:
                self._drop(nonce)
        return CommandResult(script=script, exit_status=end.status, output=output, errors=errors,
                             duration=time.monotonic() - started)  # fmt: skip

    def close(self) -> None:
        """Does nothing: the serial line belongs to the transcript."""

    def _begin(self) -> str:
        self._nonce = new_nonce()
        return self._nonce

    def _drop(self, nonce: str) -> None:
        with contextlib.suppress(Explained):
            self._line.transmit(f"drop {nonce}\n".encode(), Deadline.after(_REPEAT_EVERY))

    def _put(self, nonce: str, name: str, data: bytes, deadline: Deadline) -> None:
        for number, text in enumerate(pieces(data, as_base64=self._base64)):
            self._request(f"put {nonce} {name} {number:08} {text}", ("put",), f"{name}:{number:08}", deadline)

    def _await_end(self, nonce: str, script: str, deadline: Deadline) -> CommandEnd:
        try:
            frame = self._request(f"run {nonce}", ("running", "end"), "", deadline)
            while frame.kind != "end":
                frame = self._next(("end",), "", min(_REPEAT_EVERY * 5, deadline.remaining)) \
                    or self._request(f"ask {nonce}", ("running", "end"), "", deadline)
                if frame.kind != "end" and deadline.expired:
                    raise WaitTimedOut("still running")
            return CommandEnd.parse(frame.payload, running(script))
        except WaitTimedOut:
            raise self._overrun(nonce, script, deadline) from None

    def _overrun(self, nonce: str, script: str, deadline: Deadline) -> WaitTimedOut:
        """Kills the command, fetches its output so far, and returns the error to raise."""
        killing = Deadline.after(GRACE)
        try:
            self._line.transmit(f"kill {nonce}\n".encode(), killing)
            while (frame := self._request(f"ask {nonce}", ("running", "end"), "", killing)).kind != "end":
                if killing.expired:
                    raise WaitTimedOut("still running")
                self._liveness.pause(0.1, killing)
            end = CommandEnd.parse(frame.payload, running(script))
            printed = self._fetch(nonce, "out", min(end.output, 2000), "", running(script), killing)
        except WaitTimedOut:
            return overrun(script, deadline)
        return overrun(script, deadline, printed=printed)

    def _fetch(self, nonce: str, name: str, size: int, digest: str, doing: str, deadline: Deadline) -> bytes:
        """Fetches the announced bytes: all before the deadline, and never none of them for too long."""
        data, length, idle = bytearray(), _FIRST, deadline.at_most(IDLE)
        while len(data) < size:
            length = min(length, size - len(data))
            part = None if idle.expired else self._part(nonce, name, len(data), length, idle)
            if part is None and idle.expired:
                raise _too_little(f"only {len(data)} of {size} bytes of output arrived intact", doing, deadline)
            if part is None:
                length = max(_SMALLEST, length // 2)
            else:
                data += part
                length, idle = min(_LARGEST, length * 2), deadline.at_most(IDLE)
        if not same(bytes(data), digest):
            raise ChannelError(f"the output received over the serial line has another digest than in the guest, while "
                               f"{doing}", expected=digest)
        return bytes(data)

    def _part(self, nonce: str, name: str, offset: int, length: int, deadline: Deadline) -> bytes | None:
        """One piece of an answer, or None if it arrived damaged or not before the deadline."""
        with contextlib.suppress(WaitTimedOut):
            self._line.transmit(f"get {nonce} {name} {offset} {length}\n".encode(), deadline)
        seconds = min(_REPEAT_EVERY + 2 * length / _SLOWEST, deadline.remaining)
        frame = self._next(("part",), f"{name}:{offset}:", seconds)
        if frame is None:
            return None
        text = frame.payload.rpartition(b":")[2]
        try:
            data = base64.b64decode(text, validate=True) if self._base64 else bytes.fromhex(text.decode("ascii"))
        except (binascii.Error, ValueError):
            return None
        return data if len(data) == length else None

    def _request(self, request: str, kinds: tuple[str, ...], start: str, deadline: Deadline) -> Frame:
        """Repeats the request until a frame of one of those kinds, whose payload has that start, answers it.

        Raises:
            WaitTimedOut: none arrived in time.
        """
        while True:
            self._line.transmit(f"{request}\n".encode(), deadline)
            frame = self._next(kinds, start, min(_REPEAT_EVERY, deadline.remaining))
            if frame is not None:
                return frame
            if deadline.expired:
                raise WaitTimedOut(f"no shell answered on the serial line within {deadline.allowance:.0f} s")

    def _next(self, kinds: tuple[str, ...], start: str, seconds: float) -> Frame | None:
        """The next frame of those kinds within so many seconds, or None; other frames are discarded."""
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


def _place(frame: Frame) -> ShellPlace:
    is_initramfs = frame.payload == ShellPlace.INITRAMFS.encode()
    return ShellPlace.INITRAMFS if is_initramfs else ShellPlace.SYSTEM


def _too_little(arrived: str, doing: str, deadline: Deadline) -> Explained:
    if deadline.expired:
        return too_late(arrived, doing, deadline)
    return ChannelError(f"{arrived} while {doing}", expected=f"more of them within {IDLE:.0f} s",
                        hint="other processes of the guest write to this serial line without pause")


def pieces(data: bytes, *, as_base64: bool) -> Iterator[str]:
    """Yields the data in pieces that fit in one line of a terminal, encoded for terminal.sh."""
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
