"""The transcript: each line of a console with the host's time, checked for fatal lines while it streams."""

from __future__ import annotations

import functools
import itertools
import re
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.console import fatal_lines
from lifsea_testbed.console.serial_frames import Frame, Splitter
from lifsea_testbed.console.socket_io import SocketStream, StreamClosed, StreamStalled
from lifsea_testbed.errors import Explained, GuestCrashed, HostError, TestbedError, WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.protocols import ConsoleLine
from lifsea_testbed.support.redact import Redactor
from lifsea_testbed.support.sanitize import printable

#: Characters that are kept in memory; the file has every line, up to its own bound in bytes.
_KEPT = 8 << 20
_LARGEST_FILE = 64 << 20
#: A line without an end is cut here (bytes).
_LONGEST_LINE = 16_384
#: How long after a fatal line further lines, such as a panic's call trace, still become part of the error (seconds).
_AFTERMATH = 0.3
_POLL = 0.2
#: How long typed input may wait for the guest, and the end of reading for the output left (seconds).
_TYPING, _CLOSING = 60.0, 2.0
#: An unfinished line that does not change for so long (seconds) is a prompt, perhaps of a boot loader that stopped.
_PROMPT = 0.6
#: What ends before another message begins on the same line: a carriage return, with which status lines are redrawn; a
#: login prompt; anything before a time stamp of printk (kernel/printk/printk.c, print_time), but not a quotation mark,
#: behind which the stamp was typed. A stamp of the past is no message either.
_NEXT_MESSAGE = re.compile(rb"\r(?=[^\r\n])|(?:^|(?<=\r))(?:[\w.-]+ login|Password): (?=[^\r\n])"
                           rb"|(?<=[^\r\n'\"`])(?=\[ {0,4}\d{1,9}\.\d{6}\])")


_STAMP = re.compile(rb"\r*\[ {0,4}(\d{1,9}\.\d{6})\]")
#: By how much the stamps of messages of several CPUs may be out of order (seconds).
_OUT_OF_ORDER = 1.0


def _weight(line: ConsoleLine) -> int:
    """The memory of a line: its characters, and the objects around them."""
    return len(line.text) + 100


class LineReader:
    """Splits a stream of bytes into lines with the time of their first byte; secrets are redacted.

    A message of the kernel is a line of its own, also where it follows a prompt or another unfinished line; so is what
    follows a carriage return. Carriage returns at either end of a line are not part of its text.
    """

    def __init__(self, redactor: Redactor | None = None) -> None:
        self._redactor = redactor or Redactor()
        self._rest = b""
        self._arrivals: list[tuple[int, float]] = []
        #: The last time stamp of the kernel at the begin of a message.
        self._clock = 0.0

    def feed(self, data: bytes, at: float) -> list[ConsoleLine]:
        """Adds bytes that arrived at that time and returns the lines that they complete."""
        lines: list[ConsoleLine] = []
        for piece in data.splitlines(keepends=True) if b"\n" in data or b"\r" in data else [data]:
            self._arrivals.append((len(self._rest), at))
            self._rest += piece
            if piece.endswith(b"\n") or len(self._rest) >= _LONGEST_LINE:
                lines += self._take()
        return lines

    @property
    def unfinished(self) -> str:
        """The printable text of the unfinished line: a prompt, or a boot loader that waits."""
        return self._redactor.unfinished(printable(self._last_message[1].lstrip(b"\r")))

    @property
    def unfinished_since(self) -> ConsoleLine:
        """The unfinished line with the time of its first byte; its text is empty if there is none."""
        return ConsoleLine(at=self._arrived(self._last_message[0]), text=self.unfinished)

    def flush(self) -> list[ConsoleLine]:
        """Returns the unfinished line, if there is one."""
        return self._take() if self._rest else []

    @property
    def _last_message(self) -> tuple[int, bytes]:
        return _messages(self._rest, self._clock)[-1]

    def _take(self) -> list[ConsoleLine]:
        found = _messages(self._rest, self._clock)
        lines = [ConsoleLine(at=self._arrived(start), text=self._redactor.line(_text(message)))
                 for start, message in found]  # fmt: skip
        self._clock = max(self._clock, *(_stamp(message, 0) or 0.0 for _, message in found))
        self._rest, self._arrivals = b"", []
        return lines

    def _arrived(self, position: int) -> float:
        """When the byte at that position of the unfinished line arrived."""
        return next((at for start, at in reversed(self._arrivals) if start <= position), 0.0)


def _messages(line: bytes, clock: float) -> list[tuple[int, bytes]]:
    """The messages on a line, at least one, each with its position.

    A time stamp within it that is older than the kernel's clock is quoted from an earlier message.
    """
    ends = (match.end() for match in _NEXT_MESSAGE.finditer(line))
    starts = [0, *(end for end in ends if (stamp := _stamp(line, end)) is None or stamp >= clock - _OUT_OF_ORDER)]
    found = [(start, line[start:end]) for start, end in itertools.pairwise([*starts, len(line)])]
    return [(start, message) for start, message in found if message.strip(b"\r\n")] or [(0, line)]


def _stamp(line: bytes, position: int) -> float | None:
    match = _STAMP.match(line, position)
    return float(match[1]) if match else None


def _text(message: bytes) -> str:
    return printable(message.strip(b"\r\n")).replace("\n", " ")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Whether the host is at fault for a fatal line, what was measured of it, and a hint; by default it is not."""

    host_is_at_fault: bool = False
    text: str = ""
    hint: str = ""


class Transcript:
    """Reads one console from power-on until it closes; a fatal line ends the machine's liveness.

    `measure` tells, for a line that a busy host can cause, whether it did.

    Access methods see it as a `Console` (support/protocols.py).
    """

    def __init__(self, connection: socket.socket, *, liveness: Liveness, file: Path, redactor: Redactor | None = None,
                 measure: Callable[[fatal_lines.Suspicion], Measured] = lambda suspicion: Measured()) -> None:
        self._measure = measure
        self._stream = SocketStream(connection)
        self._liveness = liveness
        self._file = file
        self._power_on = time.monotonic()
        self._changed = threading.Condition()
        self._lines: deque[ConsoleLine] = deque()
        self._kept = 0
        self._count = 0
        self._reader = LineReader(redactor)
        self._splitter = Splitter()
        self._mirror: Callable[[bytes], None] = lambda data: None
        self._on_frame: Callable[[Frame], bool] = lambda frame: False
        self._closed = False
        self._written = 0
        self._thread = threading.Thread(target=self._read_to_the_end, name="transcript", daemon=True)
        liveness.on_end(self._wake)

    def start(self, power_on: float) -> None:
        """Starts reading; times are counted from `power_on` (host's monotonic clock)."""
        self._power_on = power_on
        self._thread.start()

    @property
    def position(self) -> int:
        """The number of lines received so far: a position for `since` and `wait_for_prompt`."""
        return self._count

    @property
    def is_empty(self) -> bool:
        """Whether nothing was received so far, not even the start of a line."""
        return self._count == 0 and not self._reader.unfinished

    def since(self, position: int = 0) -> list[ConsoleLine]:
        """Returns the lines after that position that are still in memory."""
        return self._lines_after(position)[0]

    def tail(self, lines: int = 30) -> str:
        """Returns the last lines as text, the unfinished one included."""
        with self._changed:
            last = [str(line) for line in list(self._lines)[-lines:]]
            return "\n".join([*last, *([self._reader.unfinished] if self._reader.unfinished else [])])

    def wait_for(self, pattern: str, deadline: Deadline) -> ConsoleLine:
        """Returns the first line that matches the pattern, as soon as it is complete.

        Raises:
            WaitTimedOut: no line matched in time.
            GuestCrashed, LaunchError: the machine ended first.
        """
        expression = re.compile(pattern)
        position = 0
        while True:
            seen, position = self._lines_after(position)
            if line := next((line for line in seen if expression.search(line.text)), None):
                return line
            self._liveness.check()
            if deadline.expired:
                raise WaitTimedOut(
                    f"no line matched {pattern!r} within {deadline.allowance:.0f} s", evidence=self.tail()
                )
            with self._changed:
                if self._count == position and not self._liveness.ended:
                    self._changed.wait(deadline.remaining)

    def wait_for_prompt(self, prompt: re.Pattern[str], position: int, deadline: Deadline) -> bool:
        """Waits for a line after that position, finished or not, that contains the prompt; returns whether one came.

        Raises:
            GuestCrashed, LaunchError: the machine ended first.
        """
        while True:
            with self._changed:
                seen = [*self._since(position)[0], ConsoleLine(at=0.0, text=self._reader.unfinished)]
                if any(prompt.search(line.text) for line in seen):
                    return True
                if not self._liveness.ended and not deadline.expired:
                    self._changed.wait(deadline.remaining)
            # Without the lock: the error waits for the console's next lines, which the reader adds under it.
            self._liveness.check()
            if deadline.expired:
                return False

    def send(self, data: bytes) -> None:
        """Sends those bytes to the console as if they were typed; the guest has 60 s to read them (see `transmit`)."""
        self.transmit(data, Deadline.after(_TYPING))

    def transmit(self, data: bytes, deadline: Deadline) -> None:
        """Sends those bytes to the console before the deadline.

        Raises:
            WaitTimedOut: the guest did not read its input in time.
            HostError: QEMU closed the console.
            GuestCrashed, LaunchError: the machine ended first.
        """
        try:
            self._stream.send(data, deadline, self._liveness)
        except StreamStalled as error:
            raise WaitTimedOut(f"{error} on the console", evidence=self.tail()) from error
        except StreamClosed as error:
            self._liveness.wait(Deadline.after(1.0))
            self._liveness.check()
            raise HostError(f"the console broke while {len(data)} bytes were typed: {error}") from error

    def mirror_to(self, show: Callable[[bytes], None]) -> None:
        """Passes the console's bytes to `show` as well, as they arrive."""
        self._mirror = show

    def set_frame_handler(self, on_frame: Callable[[Frame], bool]) -> None:
        """Passes each frame of a command channel to `on_frame` from now on; where that returns False it is text."""
        self._on_frame = on_frame

    def close(self) -> None:
        """Stops reading after all output that QEMU has written was read."""
        if self._thread.is_alive():
            self._thread.join(_CLOSING)
            self._closed = True
            self._stream.end()
            self._thread.join(_CLOSING)
        self._stream.close()

    def _lines_after(self, position: int) -> tuple[list[ConsoleLine], int]:
        with self._changed:
            return self._since(position)

    def _since(self, position: int) -> tuple[list[ConsoleLine], int]:
        skipped = max(0, position - (self._count - len(self._lines)))
        return list(self._lines)[skipped:], self._count

    def _read_to_the_end(self) -> None:
        """Reads until the console closes; an error here ends the machine's liveness, which no one else would notice."""
        try:
            self._read()
        except Exception as error:
            self._liveness.end(functools.partial(_unreadable, error, self._file))

    def _read(self) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            for data in self._chunks():
                if not data:
                    self._judge_prompt()
                    continue
                text = self._without_frames(data)
                self._take(self._reader.feed(text, time.monotonic() - self._power_on), file.write)
                file.flush()
            self._take(self._reader.flush(), file.write)

    def _without_frames(self, data: bytes) -> bytes:
        """The text of the console without the frames that the channel handled."""
        self._mirror(data)
        text, frames = self._splitter.feed(data)
        return text + b"".join(b"%s\n" % frame.payload for frame in frames if not self._on_frame(frame))

    def _chunks(self) -> Iterator[bytes]:
        while not self._closed:
            try:
                yield self._stream.receive(Deadline.after(_POLL))
            except StreamClosed:
                return

    def _take(self, lines: list[ConsoleLine], write: Callable[[str], object]) -> None:
        with self._changed:
            self._lines.extend(lines)
            self._count += len(lines)
            self._kept += sum(_weight(line) for line in lines)
            while self._kept > _KEPT:
                self._kept -= _weight(self._lines.popleft())
            self._changed.notify_all()
        for line in lines:
            self._judge(line)
            if self._written < _LARGEST_FILE:
                self._written += len(str(line)) + 1
                cut = f"... cut at {_LARGEST_FILE >> 20} MiB ...\n" if self._written >= _LARGEST_FILE else ""
                write(f"{line}\n{cut}")

    def _judge_prompt(self) -> None:
        line = self._reader.unfinished_since
        if line.text and time.monotonic() - self._power_on - line.at > _PROMPT and not self._liveness.ended:
            self._judge(line)

    def _judge(self, line: ConsoleLine) -> None:
        kind = fatal_lines.find(line.text)
        if kind is None:
            return
        seen, suspicion = time.monotonic(), kind.suspicion(line.text)
        measured = self._measure(suspicion) if suspicion else Measured()
        error = kind.starved if kind.starved and measured.host_is_at_fault else GuestCrashed

        def reason() -> Explained:
            time.sleep(max(0.0, seen + _AFTERMATH - time.monotonic()))
            return error(f"{kind.name}: {line.text.strip()}", hint=measured.hint,
                         evidence=f"{measured.text}\n{self.tail()}".lstrip("\n"))  # fmt: skip

        self._liveness.end(reason)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _unreadable(error: Exception, file: Path) -> TestbedError:
    if isinstance(error, OSError):
        return HostError(f"the console cannot be recorded in {file}: {error.strerror or error}", hint="free disk space")
    return TestbedError(f"the console is not read any more: {error!r}", expected=f"each line is recorded in {file}",
                        evidence="".join(traceback.format_exception(error)))  # fmt: skip
