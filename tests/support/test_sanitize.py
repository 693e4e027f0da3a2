"""The output of a guest is made printable; waits end at their deadline or with the machine."""

from __future__ import annotations

import re
import threading
import time

import pytest

from lifsea_testbed.errors import GuestCrashed
from lifsea_testbed.support.deadline import Deadline, TimeScale
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.sanitize import log_text, printable, slug


@pytest.mark.parametrize(("raw", "shown"), [
    (b"plain\r\n", "plain\n"),
    (b"\x1b[0;32m  OK  \x1b[0m", "  OK  "),
    (b"\x1b]0;title\x07text", "text"),
    (b"\x1b]52;c;ZXZpbA==\x1b\\text", "text"),
    (b"bell\x07", "bell\\x07"),
    (b"\xff", "\ufffd"),
    (b"a\x00b", "a\\x00b"),
    ("\x9b31mred", "\\x9b31mred"),
    (b"first \x1b]R\nsecond line\n", "first \nsecond line\n"),
    (b"a\x1b]P0ff00ffb\nc", "ab\nc"),
    (b"a\x1b]0;no end\nb\x1bPno end\nc", "a\nb\nc"),
    (b"\x1b\x1b[31m[31m", "\\x1b[31m"),
    ("a\u202eb\u2066c\u2028d", "a\\u202eb\\u2066c\\u2028d"),
    ("bad\udcff", "bad\\udcff"),
])  # fmt: skip
def test_untrusted_text_cannot_drive_a_terminal(raw: bytes | str, shown: str) -> None:
    assert printable(raw) == shown


@pytest.mark.parametrize("text", [
    "::error file=x::y", "  ::stop-commands::z", "\t::add-mask::a", "ok\n::set-output name=a::b", "--- fold",
    "+++ fold", "section_start:1:x\r\x1b[0K", "x ##[error]y", "##vso[task.complete]", "##teamcity[x]", "###[command]",
    "\x1b[0m::error::x",
])  # fmt: skip
def test_a_guest_gives_no_command_to_a_ci_system(text: str) -> None:
    for line in log_text(text).split("\n"):
        assert line.startswith("| ")
        assert re.search(r"##\w*\[", line) is None


def test_a_slug_is_a_file_name() -> None:
    assert slug("own-machine.1") == "own-machine.1"
    assert slug("suites/test_boot.py::test_x[a/../b]") == "suites-test-boot.py-test-x-a-..-b-31b8914d"
    assert re.fullmatch("unnamed-[0-9a-f]{8}", slug("../.."))
    assert len(slug("x/" * 1000)) <= 109 and slug("bad\udcff.raw").isascii()


@pytest.mark.parametrize(("one", "other"), [
    ("t.py::test_bound[>=1]", "t.py::test_bound[<=1]"), ("t.py::t[foo/bar]", "t.py::t[foo-bar]"),
    ("t.py::t[-1]", "t.py::t[1]"), ("a b", "a_b"), ("tests/" + "x" * 120, "suites/" + "x" * 120), ("../..", "::"),
    ("Ä", "Ö"),
])  # fmt: skip
def test_names_that_differ_have_files_that_differ(one: str, other: str) -> None:
    assert slug(one) != slug(other) and slug(one) == slug(one)


def test_a_deadline_passes() -> None:
    deadline = Deadline.after(0.01)
    time.sleep(0.02)
    assert (deadline.expired, deadline.remaining) == (True, 0.0)


def test_time_scale_scales_every_deadline() -> None:
    assert TimeScale(factor=10.0).deadline(3.0).allowance == 30.0


def test_the_first_reason_counts() -> None:
    liveness = Liveness()
    liveness.end(lambda: GuestCrashed("panic"))
    liveness.end(lambda: GuestCrashed("QEMU is gone"))
    with pytest.raises(GuestCrashed, match="panic"):
        liveness.check()
    liveness.close()


def test_a_pause_ends_with_the_machine() -> None:
    liveness = Liveness()
    threading.Timer(0.05, liveness.end, [lambda: GuestCrashed("panic")]).start()
    started = time.monotonic()
    with pytest.raises(GuestCrashed):
        liveness.pause(30.0, Deadline.after(60.0))
    assert time.monotonic() - started < 10.0
    liveness.close()


def test_a_late_listener_is_called_at_once() -> None:
    liveness = Liveness()
    woken: list[str] = []
    liveness.on_end(lambda: woken.append("early"))
    liveness.end(lambda: GuestCrashed("panic"))
    liveness.on_end(lambda: woken.append("late"))
    assert woken == ["early", "late"]
    liveness.close()
