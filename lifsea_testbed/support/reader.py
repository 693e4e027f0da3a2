"""A confined reader: a process without privileges that parses a disk image for one that has them.

The parent opens the files and passes their descriptors; it gets typed values back, or the errors of a parser. What the
reader cannot do within its bounds is one line, with what of the image was too much.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import stat
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from lifsea_testbed.errors import DiskDamaged, HostError, ImageRefused, NotJudged, Reason, TestbedError
from lifsea_testbed.support import programs
from lifsea_testbed.support.confinement import Confinement, confined
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.questions import LARGEST, AnswerFrame, Question, QuestionFrame, receive, send
from lifsea_testbed.support.reader_process import MEMORY, OUT_OF_MEMORY, PROCESSOR_TIME, TOO_LONG

P = ParamSpec("P")
T = TypeVar("T")
#: How long a reader may take to start, and to answer one question (seconds on the host, which may be busy).
_STARTING, _ANSWERING = 120.0, 300.0
#: How long the kernel may take to end a process that went beyond its bounds (seconds).
_ENDING = 10.0


@functools.cache
def reachable() -> tuple[str, ...]:
    """Returns what the kernel of this host does not keep from a reader; nothing on a host that confines it wholly.

    Raises:
        HostError: no reader starts here.
    """
    with confined() as own:
        command = _command(own)
        ended = programs.run_tool(command, within=_STARTING)
    if ended.returncode:
        raise _not_started(command, f"{ended.stderr}\nstatus {ended.returncode}")
    return tuple(split_lines(ended.stdout.strip()))


class ConfinedReader:
    """A reader of open files; it is started with the first question, and anew after one that it did not survive.

    Args:
        module: the name of the module with the questions and its function `opened`.
        files: descriptors of the files; the reader owns them, and closes them with itself.
        arguments: what `opened` gets before the numbers of the descriptors.
        name: what is read, for errors.
    """

    def __init__(self, module: str, files: Sequence[int], *arguments: str, name: str) -> None:
        #: The descriptors of the files, as long as the reader is not closed.
        self.files = tuple(files)
        self._module, self._arguments, self._name = module, arguments, name
        self._lock = threading.Lock()
        self._open: list[_Process] = []
        self._finalizer = weakref.finalize(self, _close, self._open, self.files)

    def close(self) -> None:
        """Ends the reader and closes the files; a second call does nothing."""
        self._finalizer()

    def ask(self, question: Question[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns the answer to a question.

        Raises:
            AnswerUnreadable, DiskDamaged, ImageRefused: what the question's function raises.
            NotJudged: the same; or it needs more time or memory than a reader has, or its answer is too long.
            TestbedError: the reader failed by a fault of its own.
        """
        with self._lock:
            try:
                return question.result(self._answer(question.noun, question.request(*args, **kwargs)))
            except ValueError as error:
                self._end()
                raise TestbedError(f"the reader of {self._name} gave an answer that is none, reading {question.noun}",
                                   evidence=str(error)) from None  # fmt: skip

    def _answer(self, noun: str, request: QuestionFrame) -> AnswerFrame:
        process = self._process()
        try:
            answer = process.ask(request)
        except BaseException:
            self._end()
            raise
        if answer is None:
            raise self._ended(noun)
        if answer.ended:
            self._end()
            raise self._too_much(noun, answer.ended)
        return answer

    def _process(self) -> _Process:
        if not self._open:
            self._open.append(_Process(self._module, self.files, self._arguments))
        return self._open[0]

    def _end(self) -> None:
        while self._open:
            self._open.pop().close()

    def _ended(self, noun: str) -> Exception:
        status = self._open[0].status()
        self._end()
        if status == -signal.SIGXCPU:
            return self._limit(noun, f"took more than {PROCESSOR_TIME} s of processor time")
        if status == -signal.SIGKILL:
            return self._limit(noun, f"took more than {_ANSWERING:.0f} s, or more memory than this host has")
        if status < 0:
            return DiskDamaged(f"{self._name}: {noun} ended its reader by {signal.Signals(-status).name}",
                               hint="copy the image again, compare digests")  # fmt: skip
        return TestbedError(f"the reader of {self._name} ended with {status}, reading {noun}")

    def _too_much(self, noun: str, ended: str) -> Exception:
        if ended == OUT_OF_MEMORY:
            return self._limit(noun, f"took more than {MEMORY >> 20} MiB of memory")
        if ended == TOO_LONG:
            return self._limit(noun, f"made an answer of more than {LARGEST >> 20} MiB")
        return TestbedError(f"the reader of {self._name} failed, reading {noun}", evidence=ended)

    def _limit(self, noun: str, what: str) -> NotJudged:
        return NotJudged(f"{self._name}: {noun} {what} to read offline", Reason.IMAGE)


class _Process:
    """The running child of a reader."""

    def __init__(self, module: str, files: Sequence[int], arguments: Sequence[str]) -> None:
        self._user = contextlib.ExitStack()
        own = self._user.enter_context(confined())
        self._connection, theirs = socket.socketpair()
        command = [*_command(own), module, *arguments, *map(str, files)]
        with theirs:
            self._process = programs.start(command, directory=Path("/"), inherit=files, stdin=theirs.fileno(),
                                           stdout=programs.NOWHERE, stderr=programs.PIPE)  # fmt: skip
        try:
            ready = receive(self._connection, AnswerFrame, Deadline.after(_STARTING))
        except (TimeoutError, ValueError):
            ready = None
        if ready is None:
            raise self._failed(command)

    def ask(self, request: QuestionFrame) -> AnswerFrame | None:
        """Returns the answer to a question, or None if the process ended; it is killed when that takes too long."""
        deadline = Deadline.after(_ANSWERING)
        try:
            with contextlib.suppress(ConnectionError):
                send(self._connection, request)
            return receive(self._connection, AnswerFrame, deadline)
        except TimeoutError:
            self._process.kill()
            return None

    def close(self) -> int:
        """Ends the process, or takes leave of one that ended by itself; returns its status."""
        self._connection.close()
        if self._process.stderr:
            self._process.stderr.close()
        self._process.kill()
        status = self._process.wait()
        self._user.close()
        return status

    def status(self) -> int:
        """Returns the status of a process that has closed its end of the socket."""
        return self._process.returncode if programs.wait(self._process, _ENDING) else self.close()

    def _failed(self, command: list[str]) -> HostError:
        self._process.kill()
        printed = self._process.stderr.read(4096).decode("utf-8", "replace") if self._process.stderr else ""
        status = self.close()
        return _not_started(command, f"{printed}\nstatus {status}")


def _command(own: Confinement) -> list[str]:
    return [sys.executable, "-I", "-m", "lifsea_testbed.support.reader_process", str(own.uid), str(own.gid)]


def _not_started(command: list[str], evidence: str) -> HostError:
    return HostError("the process that reads disk images does not start", evidence=evidence,
                     expected=" ".join(command[:4]))  # fmt: skip


def open_file(path: Path) -> int:
    """Opens a regular file for reading, by its path without links, and returns the descriptor.

    Raises:
        ImageRefused: it is no regular file.
        OSError: it does not exist, or may not be read.
    """
    descriptor = os.open(path.resolve(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ImageRefused(f"{path}: {kind}", hint="give --image the path of a disk image")
    return descriptor


def _close(running: list[_Process], files: Sequence[int]) -> None:
    while running:
        running.pop().close()
    for descriptor in files:
        os.close(descriptor)
