"""The interactive console: its special keys, and the control sequences that a guest may send to the terminal."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from lifsea_testbed.cli import main
from lifsea_testbed.cli.shell import Keyboard, split_keys
from lifsea_testbed.errors import TestbedError
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
        error = TestbedError("the shell ended", expected="it stays open", evidence="\x1b[31mlast words")
        error.records = Path("reports/machines/x")
        raise error

    monkeypatch.setattr(preflight, "run_context", run_context)
    assert main.main(["powercut", "--image", "out.qcow2"]) == 6
    assert capsys.readouterr().err == ("ERROR: the shell ended\n| expected: it stays open\n| evidence:\n| last words\n"
                                       "| records: reports/machines/x\n")  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The user's end of a terminal, whose other end is standard input."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours
    os.close(ours)


@pytest.mark.parametrize(("keys", "executed"), [
    (b"\x04", []), (b"half a command\x15\x04", []), (b"\x03", []), (b"half\x03", []), (b"\n", []),
    (b"info status\n", ["info status"]),
])  # fmt: skip
def test_the_monitor_takes_one_command_or_none_and_the_console_goes_on(
    terminal: int, monkeypatch: pytest.MonkeyPatch, keys: bytes, executed: list[str]
) -> None:
    """Ctrl-D ends the line without a command; so does Ctrl-C, which the terminal makes a signal."""
    sent, commands = list[bytes](), list[str]()

    def execute(name: str, arguments: dict[str, str]) -> str:
        commands.append(arguments["command-line"])
        return "VM status: running"

    def read_line(prompt: str) -> str:
        os.write(terminal, keys.replace(b"\x03", b""))
        if keys.endswith(b"\x03"):
            raise KeyboardInterrupt
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    boot: Any = SimpleNamespace(execute=execute, transcript=SimpleNamespace(send=sent.append))
    monkeypatch.setattr("builtins.input", read_line)
    keyboard = Keyboard(boot, termios.tcgetattr(sys.stdin.fileno()))
    assert keyboard.type(b"ls\r\x14id\r")
    assert (sent, commands) == ([b"ls\r", b"id\r"], executed)
    assert keyboard.type(b"\x1d") is False
