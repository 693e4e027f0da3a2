"""The interactive console: its special keys, and the control sequences that a guest may send to the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from lifsea_testbed.cli import main
from lifsea_testbed.cli.shell import split_keys
from lifsea_testbed.errors import ChannelError
from lifsea_testbed.machine import preflight


@pytest.mark.parametrize(("keys", "parts"), [
    (b"", []), (b"ls\r", [b"ls\r"]), (b"\x1d", [b"\x1d"]), (b"a\x14b\x1dc", [b"a", b"\x14", b"b", b"\x1d", b"c"]),
    (b"\x03\x1b[A", [b"\x03\x1b[A"]),
])  # fmt: skip
def test_special_keys_are_separated_from_the_guests(keys: bytes, parts: list[bytes]) -> None:
    assert list(split_keys(keys)) == parts


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
