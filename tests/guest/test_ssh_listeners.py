"""What speaks ssh is found: on any port, in any network namespace, late, and behind other lines."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest import network
from lifsea_testbed.guest.network import GuestNetwork, Listener
from lifsea_testbed.support.deadline import TimeScale
from lifsea_testbed.support.protocols import CommandResult
from tests.support.fakes import FakeShell

ROW = "   0: 00000000:{port:04X} 00000000:0000 0A 0:0\n"


class LocalShell:
    """Runs scripts on this host, except those that list sockets: these show the given ports alone."""

    def __init__(self, *ports: int, path: str = os.environ["PATH"]) -> None:
        self._listed = "= self\n" + "".join(ROW.format(port=port) for port in ports)
        self._path = path
        self.took = 0.0

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        script = command if isinstance(command, str) else shlex.join(command)
        if "/proc/net" in script:
            listed = "" if "/proc/net/unix" in script else self._listed
            return CommandResult(script=script, exit_status=0, output=listed.encode(), errors=b"", duration=0.0)
        started = time.monotonic()
        ran = subprocess.run(["/bin/sh", "-c", script], input=input, capture_output=True, check=False, timeout=60,
                             env={"PATH": self._path})  # fmt: skip
        self.took = time.monotonic() - started
        return CommandResult(script=script, exit_status=ran.returncode, output=ran.stdout, errors=b"", duration=0.0)


@contextlib.contextmanager
def server(*lines: bytes, after: float = 0.0, asks: bool = False) -> Iterator[int]:
    """A server that sends those lines to its first client, after so many seconds, or once the client has spoken."""
    ended = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            client, _ = listening.accept()
            with client:
                if asks:
                    client.recv(100)
                ended.wait(after)
                client.sendall(b"".join(line + b"\r\n" for line in lines))
                ended.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_greeting_is_waited_for_however_it_comes() -> None:
    with (server(b"SSH-2.0-x") as at_once, server(b"SSH-2.0-x", after=2.0) as late, server(b"220 smtp") as other,
          server(b"welcome", b"", b"SSH-2.0-x") as behind, server(b"SSH-1.99-x", asks=True) as asking,
          server(b"xSSH-2.0-x") as no_ssh):  # fmt: skip
        shell = LocalShell(at_once, late, behind, asking, other, no_ssh)
        found = {listener.port for listener in GuestNetwork(shell).ssh_listeners()}
    assert found == {at_once, late, behind, asking}


def test_the_wait_ends_when_nothing_is_left_to_wait_for() -> None:
    with server(b"SSH-2.0-x") as port:
        shell = LocalShell(port)
        assert GuestNetwork(shell).ssh_listeners() == [Listener(port=port, address="0.0.0.0")]
    assert shell.took < 6


@pytest.mark.parametrize(("factor", "wait"), [(1.0, 12), (4.0, 12), (10.0, 30)])
def test_the_wait_is_that_of_the_machine(factor: float, wait: int) -> None:
    shell = FakeShell({"/proc/net/unix": "", "own=": "= self\n" + ROW.format(port=22), "/dev/tcp": ""})
    assert GuestNetwork(shell, TimeScale(factor=factor)).ssh_listeners() == []
    assert f"left={wait}\n" in shell.scripts[-1] and f"read -r -t {wait} " in shell.scripts[-1]


def test_other_network_namespaces_are_entered() -> None:
    shown = "= self\n" + ROW.format(port=22) + "= 77\n" + ROW.format(port=2022)
    shell = FakeShell({"/proc/net/unix": "", "own=": shown, "/dev/tcp": "1 SSH-2.0-x\n"})
    assert GuestNetwork(shell).ssh_listeners() == [Listener(port=2022, address="0.0.0.0", process="77")]
    assert network.parse_namespaces("rubbish\n= 5\nrubbish\n") == []


def test_a_unix_socket_of_an_ssh_servers_name_is_one() -> None:
    row = "ffff: 00000002 00000000 00010000 0001 01 812 /run/ssh-unix-local/socket\n"
    shell = FakeShell({"/proc/net/unix": row, "own=": "= self\n"})
    assert GuestNetwork(shell).ssh_listeners() == [Listener(port=0, address="/run/ssh-unix-local/socket")]


@pytest.mark.parametrize(("status", "missing"), [(127, "bash nor curl"), (126, "nsenter")])
def test_without_a_tool_ssh_listeners_are_not_judged(status: int, missing: str) -> None:
    shell = FakeShell({"/proc/net/unix": "", "own=": "= self\n" + ROW.format(port=22), "/dev/tcp": (status, "")})
    with pytest.raises(NotJudged, match=missing) as caught:
        GuestNetwork(shell).ssh_listeners()
    assert caught.value.reason is Reason.IMAGE


def test_the_probe_itself_misses_its_tools() -> None:
    with pytest.raises(NotJudged, match="bash nor curl"):
        GuestNetwork(LocalShell(22, path="/nonexistent")).ssh_listeners()
