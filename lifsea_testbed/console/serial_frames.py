"""The frames of the command channel on a serial line: pure functions over bytes. Its other end is terminal.sh.

A serial line is shared. The kernel and other processes write between any two bytes, but no byte is lost or changed. So
a frame states its length and uses a small alphabet, and foreign output within it is recognised and cut out:

    frame     RS NONCE SP KIND SP LENGTH SP PAYLOAD LF     PAYLOAD is LENGTH characters of base64's alphabet, or . _ - :

Output that interrupts a frame with a character outside the alphabet, such as the `[` of the kernel's time stamp,
extends to the end of its line and is text. A frame whose length does not match is text as well; the request for it is
repeated.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

#: ASCII's record separator opens a frame: neither the kernel nor a program prints it.
START = 0x1E
_LEGAL = re.compile(rb"[A-Za-z0-9+/=._: -]*")
_INTERRUPTED = re.compile(rb"[^\x1e\n]*\n?")
_FRAME = re.compile(rb"(?P<nonce>[0-9a-f]{16}) (?P<kind>[a-z]+) (?P<length>\d{1,7}) (?P<payload>\S*)")
#: The longest frame (bytes): longer input is text.
LONGEST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A complete frame: the nonce of the request that it answers, its kind, and its payload."""

    nonce: str
    kind: str
    payload: bytes


class _In(enum.Enum):
    TEXT = enum.auto()
    FRAME = enum.auto()
    INTERRUPTION = enum.auto()


class Splitter:
    """Separates the bytes of a serial line into frames and text, as they arrive."""

    def __init__(self) -> None:
        self._in = _In.TEXT
        self._frame = bytearray()

    def feed(self, data: bytes) -> tuple[bytes, list[Frame]]:
        """Returns the text among these bytes, and the frames that they complete."""
        text, frames, at = bytearray(), list[Frame](), 0
        while at < len(data):
            at = {_In.TEXT: self._take_text, _In.FRAME: self._take_frame,
                  _In.INTERRUPTION: self._take_interruption}[self._in](data, at, text, frames)  # fmt: skip
        return bytes(text), frames

    def _take_text(self, data: bytes, at: int, text: bytearray, frames: list[Frame]) -> int:
        start = data.find(START, at)
        end = len(data) if start < 0 else start
        text += data[at:end]
        if start < 0:
            return end
        self._in = _In.FRAME
        self._frame.clear()
        return start + 1

    def _take_frame(self, data: bytes, at: int, text: bytearray, frames: list[Frame]) -> int:
        legal = _LEGAL.match(data, at)
        end = legal.end() if legal else at
        self._frame += data[at:end]
        if len(self._frame) > LONGEST:
            self._give_up(text)
        elif end < len(data):
            return self._take_other(data, end, text, frames)
        return end

    def _take_other(self, data: bytes, at: int, text: bytearray, frames: list[Frame]) -> int:
        """Handles a byte outside the alphabet: the end of the frame, a new start, or the first of an interruption."""
        byte = data[at]
        if byte == START:
            self._give_up(text)
            return at
        if byte == 0x0A:
            self._end(text, frames)
        elif byte != 0x0D:
            self._in = _In.INTERRUPTION
            return at
        return at + 1

    def _take_interruption(self, data: bytes, at: int, text: bytearray, frames: list[Frame]) -> int:
        found = _INTERRUPTED.match(data, at)
        end = found.end() if found else at
        text += data[at:end]
        if data[at:end].endswith(b"\n"):
            self._in = _In.FRAME
        elif end < len(data):  # a start: the bytes before it were no frame
            self._give_up(text)
        return end

    def _end(self, text: bytearray, frames: list[Frame]) -> None:
        found = _FRAME.fullmatch(self._frame)
        if found and int(found["length"]) == len(found["payload"]):
            frames.append(Frame(nonce=found["nonce"].decode(), kind=found["kind"].decode(), payload=found["payload"]))
            self._in = _In.TEXT
        else:
            self._give_up(text)

    def _give_up(self, text: bytearray) -> None:
        """Passes on what looked like a frame, or is a damaged one, as text on a line of its own."""
        text += bytes(self._frame) + b"\n"
        self._frame.clear()
        self._in = _In.TEXT


def octal(data: bytes) -> bytes:
    r"""Returns the argument from which `printf %b` prints these bytes: printable characters, and \0ooo for the rest."""
    return b"".join(_OCTAL[byte] for byte in data)


#: A backslash starts an escape, a blank ends a word, and a percent sign is safe in an argument of %b.
_OCTAL = [bytes([byte]) if 0x21 <= byte <= 0x7E and byte != 0x5C else f"\\0{byte:03o}".encode() for byte in range(256)]
