"""ttyS0: every line with its time, and the ones that nobody survives."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lifsea_testbed.console import fatal
from lifsea_testbed.console.transcript import LineReader, Transcript
from lifsea_testbed.deadline import Deadline
from lifsea_testbed.errors import GuestCrashed, WaitTimedOut
from lifsea_testbed.lifeline import Lifeline


@dataclass(frozen=True, kw_only=True)
class Console:
    guest: socket.socket
    transcript: Transcript
    lifeline: Lifeline
    file: Path


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    guest, host = socket.socketpair()
    lifeline = Lifeline()
    transcript = Transcript(host, lifeline=lifeline, file=tmp_path / "transcript.txt")
    transcript.start(time.monotonic())
    yield Console(guest=guest, transcript=transcript, lifeline=lifeline, file=tmp_path / "transcript.txt")
    guest.close()
    transcript.close()
    lifeline.close()


@pytest.mark.parametrize(("line", "name"), [
    ("[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs", "kernel panic"),
    ("Kernel panic - not syncing: Attempted to kill init!", "kernel panic"),
    ("[   12.0] BUG: unable to handle page fault for address: 0000", "kernel oops"),
    ("[    1.0][  T123] kernel BUG at fs/ext4/inode.c:1!", "kernel bug"),
    ("[  100.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "soft lock-up"),
    ("[  120.1] INFO: task kworker/0:1:12 blocked for more than 120 seconds.", "hung task"),
    ("You are in emergency mode. After logging in, type", "emergency mode"),
    ("Cannot open access to console, the root account is locked.", "emergency mode"),
    ("(initramfs) ", "initramfs shell"),
    ("grub rescue> ", "boot loader stopped"),
    ("No bootable device.", "firmware found nothing to boot"),
])  # fmt: skip
def test_a_fatal_line_is_known(line: str, name: str) -> None:
    found = fatal.find(line)
    assert found is not None and found.name == name


@pytest.mark.parametrize("line", [
    "", "login: ", "audit: user typed 'Kernel panic - not syncing' in a file name",
    "[    0.5] Kernel command line: root=/dev/vda4 panic=1", "error: no such file", "Reached target emergency.target",
    "[    1.0] Oopsie: a process of that name",
])  # fmt: skip
def test_what_only_looks_fatal_is_not(line: str) -> None:
    assert fatal.find(line) is None


def test_a_line_has_the_time_of_its_first_byte() -> None:
    reader = LineReader()
    assert reader.feed(b"Welc", 1.0) == []
    (line,) = reader.feed(b"ome\r\n", 2.0)
    assert (line.at, line.text) == (1.0, "Welcome")
    assert str(line) == "[    1.000] Welcome"


def test_a_prompt_without_an_end_is_not_lost() -> None:
    reader = LineReader()
    reader.feed(b"one\ngrub> ", 1.0)
    assert reader.unfinished == "grub> "
    assert [line.text for line in reader.flush()] == ["grub> "]


def test_a_line_without_end_is_ended() -> None:
    reader = LineReader()
    lines = [line for _ in range(40) for line in reader.feed(b"x" * 1000, 0.0)]
    assert lines and all(len(line.text) <= 20_000 for line in lines)


def test_lines_are_kept_written_and_found(console: Console) -> None:
    console.guest.sendall(b"first\nsecond\n")
    line = console.transcript.wait_for("^sec", Deadline.after(10))
    assert line.text == "second"
    assert [each.text for each in console.transcript.since()] == ["first", "second"]
    assert console.transcript.first("fir") is not None
    console.guest.close()
    console.transcript.close()
    assert [text.split("] ")[1] for text in console.file.read_text().splitlines()] == ["first", "second"]


def test_waiting_for_a_line_ends(console: Console) -> None:
    console.guest.sendall(b"something else\n")
    with pytest.raises(WaitTimedOut, match="no line matched") as caught:
        console.transcript.wait_for("never", Deadline.after(0.3))
    assert "something else" in caught.value.evidence


def test_a_panic_ends_every_wait_at_once(console: Console) -> None:
    console.guest.sendall(b"[    1.0] Kernel panic - not syncing: gone\n[    1.0] Call Trace:\n")
    started = time.monotonic()
    with pytest.raises(GuestCrashed, match="kernel panic") as caught:
        console.transcript.wait_for("login:", Deadline.after(60))
    assert time.monotonic() - started < 10.0
    assert "Call Trace" in caught.value.evidence


def test_escape_sequences_do_not_reach_the_file(console: Console) -> None:
    console.guest.sendall(b"\x1b[2J\x1b]0;own\x07text\n")
    console.transcript.wait_for("text", Deadline.after(10))
    console.guest.close()
    console.transcript.close()
    assert "\x1b" not in console.file.read_text()
