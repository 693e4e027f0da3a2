"""The user-data that opens a shell, and the script that it installs in the guest, run on this host."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pexpect
import pytest

from lifsea_testbed.console import login
from lifsea_testbed.profiles.profile import ChannelDevice
from lifsea_testbed.support.protocols import Console

PORT = "org.example.shell"


def script(tmp_path: Path) -> Path:
    """The script that opens the port, with an agent that records its argument, and ports below the given directory."""
    text = login.user_data(PORT, ChannelDevice.PORT).decode()
    (opening,) = re.findall(r"open\.sh <<'END-OF-OPEN'\n(.*?)END-OF-OPEN", text, re.DOTALL)
    (tmp_path / "agent.sh").write_text(f'echo "$1" >{tmp_path}/opened')
    (tmp_path / "open.sh").write_text(opening.replace("/sys/class/virtio-ports", str(tmp_path / "ports"))
                                      .replace("/etc/lifsea-testbed/agent.sh", str(tmp_path / "agent.sh")))
    return tmp_path / "open.sh"


def add_port(tmp_path: Path, device: str, name: str) -> None:
    (tmp_path / "ports" / device).mkdir(parents=True)
    (tmp_path / "ports" / device / "name").write_text(f"{name}\n")


def test_the_port_is_found_by_its_name(tmp_path: Path) -> None:
    add_port(tmp_path, "vport1p1", "org.qemu.guest_agent.0")
    add_port(tmp_path, "vport1p2", PORT)
    opened = subprocess.run(["sh", script(tmp_path)], capture_output=True, check=True, timeout=30)
    assert (tmp_path / "opened").read_text() == "/dev/vport1p2\n"
    assert opened.stdout == opened.stderr == b""


def test_a_port_whose_driver_comes_late_is_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen(["sh", script(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as opening:
        assert opening.stdout and opening.stdout.readline() == f"no virtio-serial port is called {PORT} yet\n".encode()
        add_port(tmp_path, "vport0p1", PORT)
        output, errors = opening.communicate(timeout=30)
    assert (tmp_path / "opened").read_text() == "/dev/vport0p1\n"
    assert output == errors == b""


def test_the_unit_is_started_however_often_it_ends() -> None:
    assert b"\nStartLimitIntervalSec=0\n[Service]\n" in login.user_data(PORT, ChannelDevice.PORT)


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
