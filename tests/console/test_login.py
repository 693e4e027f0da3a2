"""What is typed at a console, run on this host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pexpect
import pytest

from lifsea_testbed.console import login
from lifsea_testbed.support.protocols import Console


@pytest.mark.parametrize("shell", ["bash --norc", "dash -i"])
def test_an_interrupted_shell_discards_incomplete_input(shell: str) -> None:
    """It accepts commands again."""
    with pexpect.spawn(shell, encoding="utf-8", timeout=30, env={"PS1": "ready# ", "PS2": "more> "}) as typed:
        typed.expect_exact("ready# ")
        typed.send("cat <<'END-OF-AGENT'\nEND-OF-AG\n")
        typed.expect_exact("more> ")
        typed.expect_exact("more> ")
        console = cast(Console, SimpleNamespace(send=lambda keys: typed.send(keys.decode())))
        login.interrupt(console)
        typed.expect_exact("ready# ")
        typed.send("echo $((40 + 2))\n")
        typed.expect_exact("42\r\n")
