"""A reader's answers are typed, bounded, and errors of known kinds; whatever else it says is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from lifsea_testbed.errors import DiskDamaged, ImageRefused, NotJudged, Reason, TestbedError
from lifsea_testbed.support import questions, reader, reader_process
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.questions import AnswerFrame, QuestionFrame, question
from lifsea_testbed.support.reader import ConfinedReader, open_file
from tests.support import ROOT


@dataclass(frozen=True, kw_only=True)
class Row:
    """What an answer may be made of."""

    path: PurePosixPath
    content: bytes
    tags: frozenset[str]


@question("a row")
def row(subject: str, name: str, count: int = 1) -> list[Row]:
    """Returns a value of each kind."""
    return [Row(path=PurePosixPath(subject, name), content=b"\xff\0", tags=frozenset({"\udcff"}))] * count


@question("a failure")
def failure(subject: str, kind: str) -> None:
    """Raises one error of each kind."""
    raise {"damage": DiskDamaged("bad", expected="good", hint="copy it"), "memory": MemoryError(),
           "unjudged": NotJudged("odd", Reason.IMAGE), "fault": ZeroDivisionError("x")}[kind]  # fmt: skip


@question("something long")
def long(subject: str) -> list[str]:
    """Returns more than a frame holds."""
    return ["x" * questions.LARGEST]


QUESTIONS = {each.name: each for each in (row, failure, long)}


def asked(request: QuestionFrame) -> AnswerFrame:
    """What the process of a reader answers."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        serving = threading.Thread(target=reader_process.serve, args=(theirs, QUESTIONS, "/top"))
        serving.start()
        questions.send(ours, request)
        answer = questions.receive(ours, AnswerFrame, Deadline.after(60))
        ours.shutdown(socket.SHUT_RDWR)
        serving.join()
    assert answer is not None
    return answer


def test_an_answer_has_the_types_of_its_question() -> None:
    value = Row(path=PurePosixPath("/top/a"), content=b"\xff\0", tags=frozenset({"\udcff"}))
    assert row.result(asked(row.request("a", count=2))) == [value, value]


def test_the_errors_of_a_parser_come_through() -> None:
    with pytest.raises(DiskDamaged) as caught:
        failure.result(asked(failure.request("damage")))
    assert (caught.value.happened, caught.value.expected, caught.value.hint) == ("bad", "good", "copy it")
    with pytest.raises(NotJudged, match="odd") as unjudged:
        failure.result(asked(failure.request("unjudged")))
    assert unjudged.value.reason is Reason.IMAGE


@pytest.mark.parametrize(("request_", "ended"), [
    (failure.request("memory"), "memory"), (long.request(), "length"), (failure.request("fault"), "ZeroDivisionError"),
])  # fmt: skip
def test_what_a_reader_cannot_do_is_told(request_: QuestionFrame, ended: str) -> None:
    assert ended in asked(request_).ended


@pytest.mark.parametrize("answer", [
    AnswerFrame(value=[{"path": 7, "content": "", "tags": []}]), AnswerFrame(value="rows"),
    AnswerFrame(value=[{"path": "/", "content": "!", "tags": []}]), AnswerFrame(error="KeyboardInterrupt"),
    AnswerFrame(error="HostError", happened="x"), AnswerFrame(error="NotJudged", reason="whim"),
])  # fmt: skip
def test_an_answer_of_another_shape_is_refused(answer: AnswerFrame) -> None:
    with pytest.raises(ValueError):
        row.result(answer)


@pytest.mark.parametrize("frame", [
    b"\xff\xff\xff\xff", b"\0\0\0\2{]", b"\0\0\0\2[]", (1 << 20).to_bytes(4) + b"[" * (1 << 20),
], ids=["length", "syntax", "shape", "depth"])  # fmt: skip
def test_a_frame_that_is_none_is_refused(frame: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=theirs.sendall, args=(frame,)).start()
        with pytest.raises(ValueError):
            questions.receive(ours, AnswerFrame, Deadline.after(60))


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\0\0")
        with pytest.raises(TimeoutError):
            questions.receive(ours, AnswerFrame, Deadline.after(0.01))


@pytest.mark.parametrize(("answer", "error", "complaint"), [
    (AnswerFrame(ended="memory"), NotJudged, "disk.raw: a row took more than 512 MiB of memory to read offline"),
    (AnswerFrame(ended="length"), NotJudged, "disk.raw: a row made an answer of more than 8 MiB to read offline"),
    (AnswerFrame(ended="parser.py:1"), TestbedError, "the reader of disk.raw failed, reading a row"),
    (AnswerFrame(value="rows"), TestbedError, "the reader of disk.raw gave an answer that is none, reading a row"),
])  # fmt: skip
def test_a_limit_is_one_line(monkeypatch: pytest.MonkeyPatch, answer: AnswerFrame, error: type[Exception],
                             complaint: str) -> None:  # fmt: skip
    class Process:
        def ask(self, *_: object) -> AnswerFrame:
            return answer

        def close(self) -> int:
            return 0

    monkeypatch.setattr("lifsea_testbed.support.reader._Process", lambda *_: Process())
    with pytest.raises(error, match=complaint):
        ConfinedReader("module", [], name="disk.raw").ask(row, "a")


def test_a_link_is_followed_and_a_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    os.close(open_file(tmp_path / "link"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageRefused, match="not a regular file"):
        open_file(tmp_path / "pipe")


def test_what_the_kernel_does_not_keep_from_a_reader_is_known() -> None:
    """In a process of its own, which loses its privileges, on a kernel that refuses everything."""
    script = ("import ctypes, os\nfrom lifsea_testbed.support import reader_process\n"
              "class Old:\n"
              "    def __init__(self, *a, **k): pass\n"
              "    unshare = prctl = capset = lambda self, *a: -1\n"
              "    def syscall(self, *a): return -1\n"
              "reader_process.ctypes.CDLL = Old\n"
              "print(*reader_process.confine_self(65534, 65534), sep='\\n')")  # fmt: skip
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert shown.splitlines() == ["the network of this host",
                                  "files that everybody may read (no Landlock in this kernel)"]  # fmt: skip
    assert all(place in shown for place in reader.reachable())
