"""The interactive console: its special keys, and the control sequences that a guest may send to the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from lifsea_testbed.cli import main
from lifsea_testbed.cli.shell import split_keys
from lifsea_testbed.errors import ChannelError
from lifsea_testbed.machine import preflight
from lifsea_testbed.support.sanitize import harmless


@pytest.mark.parametrize(("keys", "parts"), [
    (b"", []), (b"ls\r", [b"ls\r"]), (b"\x1d", [b"\x1d"]), (b"a\x14b\x1dc", [b"a", b"\x14", b"b", b"\x1d", b"c"]),
    (b"\x03\x1b[A", [b"\x03\x1b[A"]),
])  # fmt: skip
def test_special_keys_are_separated_from_the_guests(keys: bytes, parts: list[bytes]) -> None:
    assert list(split_keys(keys)) == parts


@pytest.mark.parametrize(("printed", "shown"), [
    (b"\x1b[1;31mred\x1b[0m\r\n", b"\x1b[1;31mred\x1b[0m\r\n"), (b"\x1b]0;title\x07x", b"x"),
    (b"\x1b]52;c;AA\x1b\\x", b"x"),
    (b"\x1bPq#0\x1b\\x", b"x"), (b"\x1b[6nx", b"x"), (b"\x1b[cx", b"x"), (b"\x1b[21tx", b"x"), (b"\x05x", b"x"),
])  # fmt: skip
def test_a_guest_draws_on_the_screen_and_does_nothing_else(printed: bytes, shown: bytes) -> None:
    assert harmless(printed) == shown


def test_bad_input_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["shell", "--image", "none.qcow2"]) == 4
    assert "no such image" in capsys.readouterr().err


def test_any_other_error_is_shown_with_its_evidence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_context(**options: object) -> NoReturn:
        error = ChannelError("the shell ended", expected="it stays open", evidence="\x1b[31mlast words")
        error.records = Path("reports/machines/x")
        raise error

    monkeypatch.setattr(preflight, "run_context", run_context)
    assert main.main(["powercut", "--image", "out.qcow2"]) == 6
    assert capsys.readouterr().err == ("ERROR: the shell ended\nexpected: it stays open\nevidence:\nlast words\n"
                                       "records: reports/machines/x\n")  # fmt: skip
