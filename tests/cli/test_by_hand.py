"""Interactive use at a terminal: the console of an image, and a failed test's machine under the debugger."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.support import ROOT
from tests.support.real import built

pytestmark = [pytest.mark.nightly, pytest.mark.boots]
#: A boot under emulation on a busy host (seconds).
_BOOT = 300.0
_FAILS = """def test_fails(own_machine):
    own_machine.run("echo left >/run/left")
    assert False
"""


@pytest.fixture
def typed() -> Iterator[list[pexpect.spawn[str]]]:
    """Programs on terminals, ended after the test."""
    programs: list[pexpect.spawn[str]] = []
    yield programs
    for program in programs:
        program.close(force=True)


def start(programs: list[pexpect.spawn[str]], *words: str, **where: Any) -> pexpect.spawn[str]:
    """Starts a Python program on a terminal."""
    program = pexpect.spawn(sys.executable, ["-m", *words], encoding="utf-8", codec_errors="replace", timeout=_BOOT,
                            **where)  # fmt: skip
    programs.append(program)
    return program


def test_the_console_of_an_image(typed: list[pexpect.spawn[str]]) -> None:
    shell = start(typed, "lifsea_testbed", "shell", "--image", str(built("reference")), cwd=str(ROOT))
    shell.expect("Ctrl-]")
    shell.expect("# $")
    shell.send("echo $((40 + 2))\r")
    shell.expect("42\r\n")
    shell.send("\x14")
    shell.send("info status\r")
    shell.expect("VM status: running")
    shell.send("\x1d")
    shell.expect(pexpect.EOF)
    shell.wait()
    assert shell.exitstatus == 0


def test_the_debugger_has_the_machine_of_a_failed_test(typed: list[pexpect.spawn[str]], tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_FAILS)
    image = str(built("reference"))
    pytest_ = start(typed, "pytest", str(tmp_path / "test_it.py"), "--image", image, "--pdb", "--profile", "reference",
                    "-p", "no:cacheprovider", "--reports", str(tmp_path / "reports"), cwd=str(tmp_path))  # fmt: skip
    pytest_.expect(r"\(Pdb\) ")
    pytest_.send("print('found', own_machine.run('cat /run/left').stdout)\n")
    pytest_.expect("found left")
    pytest_.send("q\n")
    pytest_.expect(pexpect.EOF)
