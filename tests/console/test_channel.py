"""The command channel: channel.sh on this host, and fake shells that break the protocol."""

from __future__ import annotations

import contextlib
import importlib.resources
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.console import channel as channel_module
from lifsea_testbed.console import port_frames, socket_io
from lifsea_testbed.console.channel import PortChannel
from lifsea_testbed.console.socket_io import StreamStalled
from lifsea_testbed.errors import ChannelError, GuestCrashed, LaunchError, WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness

SOON = 30.0


def appears(path: Path) -> None:
    deadline = Deadline.after(SOON)
    while not path.exists():
        assert not deadline.expired
        time.sleep(0.01)


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """channel.sh in a file of its own."""
    script = importlib.resources.files("lifsea_testbed.console").joinpath("channel.sh")
    (tmp_path / "agent.sh").write_bytes(script.read_bytes())
    return tmp_path / "agent.sh"


@pytest.fixture
def channel(tmp_path: Path, agent: Path) -> Iterator[PortChannel]:
    """A channel whose other end is channel.sh on a raw terminal, which carries bytes as a virtio port does."""
    guest, host = socket.socketpair()
    port = tmp_path / "port"
    carrier = subprocess.Popen(["socat", f"FD:{guest.fileno()}", f"PTY,raw,echo=0,link={port}"],
                               pass_fds=[guest.fileno()])  # fmt: skip
    guest.close()
    appears(port)
    shell = subprocess.Popen(["sh", str(agent), str(port), str(tmp_path / "work")])
    liveness = Liveness()
    connected = PortChannel(host, liveness=liveness)
    yield connected
    connected.close()
    for process in (shell, carrier):
        process.kill()
        process.wait()
    liveness.close()


def test_a_greeting_brings_the_boot_id(channel: PortChannel) -> None:
    assert channel.greet(Deadline.after(SOON)) == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_status_output_and_errors_come_apart(channel: PortChannel) -> None:
    result = channel.run("echo out; echo err >&2; exit 3", deadline=Deadline.after(SOON))
    assert (result.exit_status, result.stdout, result.stderr) == (3, "out\n", "err\n")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 1 << 16, 1 << 20])
def test_every_byte_comes_back(channel: PortChannel, size: int) -> None:
    given = (bytes(range(256)) * (size // 256 + 1))[:size]
    result = channel.run("cat", input=given, deadline=Deadline.after(SOON))
    assert result.output == given


_NONCE = "0123456789abcdef"
_PROGRAM = """#!/bin/sh
echo "channel {nonce} result {status} 0 0"
read -r sent
echo "channel {nonce} result 0 ${{#sent}} 0"
printf '%s' "$sent"
"""


def program(place: Path, *, status: int = 0) -> str:
    path = place / "program"
    path.write_text(_PROGRAM.format(nonce=_NONCE, status=status))
    path.chmod(0o700)
    return str(path)


def test_a_program_that_was_lent_the_turn_reads_and_answers_itself_until_it_ends(
    channel: PortChannel, tmp_path: Path
) -> None:
    channel.greet(Deadline.after(SOON))
    for sent in (b"kill everything", b"hello"):
        assert channel.lend(program(tmp_path), _NONCE, Deadline.after(SOON)).status == 0
        assert channel.give(sent + b"\n", _NONCE, Deadline.after(SOON))[1] == sent
    assert channel.run("echo on", deadline=Deadline.after(SOON)).stdout == "on\n"


@pytest.mark.parametrize(("path", "status"), [("/no/such/program", 127), ("/", 126), ("/bin/false", 1)])
def test_a_program_that_does_not_wait_says_so_and_the_channel_goes_on(
    channel: PortChannel, path: str, status: int
) -> None:
    assert channel.lend(path, _NONCE, Deadline.after(SOON)).status == status
    result = channel.run("echo on", deadline=Deadline.after(SOON))
    assert (result.stdout, result.stderr) == ("on\n", "")


def test_what_looks_like_the_protocol_is_only_output(channel: PortChannel) -> None:
    text = "channel 0000000000000000 result 0 0 0\nrun x 1 1\nkill x\n$ # root@host:~#\n"
    result = channel.run("cat; printf '\\003\\004\\021\\023\\032'", input=text.encode(), deadline=Deadline.after(SOON))
    assert result.output == text.encode() + b"\x03\x04\x11\x13\x1a"


def test_a_script_may_be_long_and_odd(channel: PortChannel) -> None:
    script = "cat <<'END'\n" + "'\"$`\\ ÄÖ €\n" * 2000 + "END\n"
    assert channel.run(script, deadline=Deadline.after(SOON)).stdout == "'\"$`\\ ÄÖ €\n" * 2000


def test_a_command_that_overruns_is_killed_and_the_channel_goes_on(channel: PortChannel) -> None:
    with pytest.raises(WaitTimedOut, match="was killed") as caught:
        channel.run("echo before; sleep 60 & sleep 60", deadline=Deadline.after(1.0))
    assert "before" in caught.value.evidence
    assert channel.run("echo after", deadline=Deadline.after(SOON)).stdout == "after\n"


def test_a_command_killed_by_a_signal_says_so(channel: PortChannel) -> None:
    assert channel.run("kill -TERM $$", deadline=Deadline.after(SOON)).exit_status == 128 + 15


@contextlib.contextmanager
def talk(*replies: bytes) -> Iterator[tuple[PortChannel, Liveness]]:
    """A channel to an end that sends these bytes for each thing it receives, NONCE replaced by the real one."""
    guest, host = socket.socketpair()
    liveness = Liveness()

    def serve() -> None:
        for reply in replies:
            words = guest.recv(65536).split()
            if len(words) > 1:
                guest.sendall(reply.replace(b"NONCE", words[1]))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    channel = PortChannel(host, liveness=liveness)
    yield channel, liveness
    channel.close()
    thread.join()
    guest.close()
    liveness.close()


@pytest.mark.parametrize("reply", [
    b"garbage\n", b"channel 1234 result 0 0 0\n", b"channel NONCE result x 0 0\n", b"channel NONCE hello b\nx\n",
    b"channel NONCE result 0 99999999999 0\n", b"\x00" * 4096,
])  # fmt: skip
def test_an_end_that_breaks_the_protocol_is_reported_and_greeted_anew(reply: bytes) -> None:
    with talk(reply, b"more garbage\nchannel NONCE hello boot\n", b"channel NONCE result 5 0 0\n") as (channel, _):
        with pytest.raises(ChannelError, match="while running 'true'"):
            channel.run("true", deadline=Deadline.after(2.0))
        assert channel.run("exit 5", deadline=Deadline.after(SOON)).exit_status == 5


def test_a_guest_that_does_not_read_its_input_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_io, "_STALLED", 0.2)
    with talk() as (channel, _), pytest.raises(ChannelError, match=r"running 'cat': the guest did not read its input"):
        channel.run("cat", input=bytes(1 << 24), deadline=Deadline.after(2.0))


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, PortChannel, Liveness]]:
    """A guest's end that the test serves itself, the channel to it, and the liveness of its machine."""
    guest, host = socket.socketpair()
    liveness = Liveness()
    channel = PortChannel(host, liveness=liveness)
    yield guest, channel, liveness
    guest.close()
    channel.close()
    liveness.close()


@contextlib.contextmanager
def serving(serve: Callable[[], object]) -> Iterator[None]:
    """Runs the function, which ends when its socket is closed, on a thread of its own."""
    def quietly() -> None:
        with contextlib.suppress(OSError):
            serve()

    threading.Thread(target=quietly, daemon=True).start()
    yield


def test_what_a_guest_announces_does_not_lengthen_the_wait() -> None:
    with talk(b"channel NONCE result 0 104857600 0\nonly this") as (channel, _):
        started = time.monotonic()
        with pytest.raises(WaitTimedOut, match="only 9 of 104857600 bytes of output arrived within 1 s while running"):
            channel.run("true", deadline=Deadline.after(1.0))
        assert time.monotonic() - started < 5.0


def test_a_guest_that_trickles_does_not_lengthen_the_wait() -> None:
    with connected() as (guest, channel, _):
        def serve() -> None:
            nonce = guest.recv(65536).split()[1]
            guest.sendall(b"channel %s result 0 1000000 0\n" % nonce)
            while True:
                guest.sendall(b"x")
                time.sleep(0.05)

        started = time.monotonic()
        with serving(serve), pytest.raises(WaitTimedOut, match="of 1000000 bytes of output arrived within 1 s"):
            channel.run("true", deadline=Deadline.after(1.0))
        assert time.monotonic() - started < 5.0


def test_a_guest_that_sends_no_more_of_what_it_announced_breaks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "IDLE", 0.2)
    with talk(b"channel NONCE result 0 100 0\nonly this", b"channel NONCE hello boot\n",
              b"channel NONCE result 5 0 0\n") as (channel, _):  # fmt: skip
        with pytest.raises(ChannelError, match="only 9 of 100 bytes of output that it announced while running 'true'"):
            channel.run("true", deadline=Deadline.after(SOON))
        assert channel.run("exit 5", deadline=Deadline.after(SOON)).exit_status == 5


def test_a_guest_that_writes_without_pause_does_not_lengthen_the_wait_for_its_greeting() -> None:
    with connected() as (guest, channel, _):
        def serve() -> None:
            while True:
                guest.sendall(b"noise\n" * 1000)

        started = time.monotonic()
        with serving(serve), pytest.raises(WaitTimedOut, match="no shell answered"):
            channel.greet(Deadline.after(0.5))
        assert time.monotonic() - started < 5.0


def test_input_that_the_guest_does_not_read_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "GRACE", 0.2)
    with connected() as (_, channel, _):
        started = time.monotonic()
        with pytest.raises(WaitTimedOut, match="a command took over 0 s and could not be killed: cat"):
            channel.run("cat", input=bytes(1 << 24), deadline=Deadline.after(0.3))
        assert time.monotonic() - started < 5.0


def test_input_that_the_guest_does_not_read_ends_with_the_machine() -> None:
    with connected() as (_, channel, liveness):
        threading.Timer(0.2, liveness.end, [lambda: GuestCrashed("panic")]).start()
        started = time.monotonic()
        with pytest.raises(GuestCrashed):
            channel.run("cat", input=bytes(1 << 24), deadline=Deadline.after(60.0))
        assert time.monotonic() - started < 10.0


def test_input_that_was_sent_in_part_is_completed_before_the_next() -> None:
    with connected() as (guest, channel, _):
        whole = bytes(range(256)) * (1 << 14)
        with pytest.raises(StreamStalled):
            channel._stream.send(whole, Deadline.after(0.2))
        with pytest.raises(StreamStalled):
            channel._stream.send(b"not begun", Deadline.after(0.1))
        received = bytearray()

        def serve() -> None:
            while len(received) < len(whole) + 4:
                received.extend(guest.recv(1 << 16))

        reader = threading.Thread(target=serve, daemon=True)
        reader.start()
        channel._stream.send(b"next", Deadline.after(SOON))
        reader.join(SOON)
        assert bytes(received) == whole + b"next"


def test_an_answer_that_arrived_before_the_machine_ended_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast guest answers the command that shuts it down and is gone before the answer is read."""
    with connected() as (guest, channel, liveness):
        def serve() -> None:
            nonce = guest.recv(65536).split()[1]
            guest.sendall(b"channel %s result 0 0 0\n" % nonce)
            liveness.end(lambda: LaunchError("the machine is off"))
            guest.close()
            served.set()

        receive, served = channel._stream.receive, threading.Event()

        def receive_late(*arguments: Any) -> bytes:
            served.wait(SOON)
            return receive(*arguments)

        monkeypatch.setattr(channel._stream, "receive", receive_late)
        with serving(serve):
            assert channel.run("systemctl poweroff", deadline=Deadline.after(SOON)).ok


def test_a_shell_that_goes_away_ends_the_wait_and_is_greeted_anew() -> None:
    with talk(b"", b"channel NONCE hello boot\n", b"channel NONCE result 0 0 0\n") as (channel, _):
        threading.Timer(0.1, channel.port_closed).start()
        started = time.monotonic()
        with pytest.raises(ChannelError, match=r"in the guest exited .* while running 'sleep 1000'"):
            channel.run("sleep 1000", deadline=Deadline.after(60.0))
        assert time.monotonic() - started < 10.0
        assert channel.run("true", deadline=Deadline.after(SOON)).ok


def test_a_shell_that_ends_before_it_reads_a_script_is_not_taken_for_the_one_before(
    channel: PortChannel, agent: Path, tmp_path: Path
) -> None:
    """The next is started from a file that is empty, as while it is written anew: all end, and answer nothing more."""
    for _ in range(8):
        assert channel.run("true", deadline=Deadline.after(SOON)).ok
    agent.write_bytes(b"")
    channel._stream.send(port_frames.run("last", "echo once", b""), Deadline.after(SOON))
    appears(tmp_path / "work/over")
    received = channel._stream.receive(Deadline.after(0.3)) + channel._stream.receive(Deadline.after(0.3))
    assert received in (b"", b"channel last result 0 5 0\nonce\n")


def test_what_is_left_running_does_not_print_into_later_answers(channel: PortChannel) -> None:
    noise = channel.run("while :; do echo noise; sleep 0.01; done 2>&1 & echo $! >&2", deadline=Deadline.after(SOON))
    for _ in range(12):
        assert channel.run("sleep 0.05; echo mine", deadline=Deadline.after(SOON)).stdout == "mine\n"
    channel.run(f"kill {noise.stderr}", deadline=Deadline.after(SOON))


@pytest.mark.parametrize(("script", "status", "output"), [
    ("", 0, ""), (" ", 0, ""), ("printf %s \\ ", 0, " "), ("exit 3", 3, ""), ("false", 1, ""),
    ("trap 'echo bye' EXIT", 0, "bye\n"), ("echo() { :; }; true", 0, ""),
    ("echo $#; ls /proc/self/fd | wc -l", 0, "0\n4\n"), ("take", 127, ""), ("shift", 2, ""),
    ("set -eu; true", 0, ""), ("printf '%s' 'a '", 0, "a "), ("exec true", 0, ""), ("printf x\nprintf y", 0, "xy"),
    ("set -- a b; echo $#", 0, "2\n"), ("syntax (error", 2, ""), ("cd /; unset PATH; true", 0, ""),
])  # fmt: skip
def test_a_script_may_do_as_it_likes_with_its_shell(
    channel: PortChannel, script: str, status: int, output: str
) -> None:
    for _ in range(5):
        result = channel.run(script, deadline=Deadline.after(SOON))
        assert (result.exit_status, result.stdout) == (status, output)


@pytest.mark.parametrize(("status", "by"), [
    (137, signal.SIGKILL), (130, signal.SIGINT), (1, None), (128, None), (255, None),
])  # fmt: skip
def test_a_signal_is_told_by_its_name(channel: PortChannel, status: int, by: signal.Signals | None) -> None:
    assert channel.run(f"exit {status}", deadline=Deadline.after(SOON)).signal is by


def test_what_commands_printed_does_not_pile_up_in_the_guest(channel: PortChannel, tmp_path: Path) -> None:
    """Four shells wait, each with two files; empty files are removed every hundred rounds."""
    for script in [*["echo printed"] * 5, *["true"] * 450]:
        assert channel.run(script, deadline=Deadline.after(SOON)).ok
    time.sleep(0.5)  # the last shells start anew
    left = [path for end in ("out", "err") for path in (tmp_path / "work").glob(f"*.{end}")]
    assert len(left) <= 4 * 2 * 101
    assert not any(path.stat().st_size for path in left)


def test_a_command_has_a_shell_of_its_own(channel: PortChannel) -> None:
    """Settings, traps and background processes of one do not affect the next."""
    channel.run("cd /tmp; left=1; export left; trap 'exit 9' EXIT; umask 0; sleep 60 &", deadline=Deadline.after(SOON))
    for _ in range(8):
        seen = channel.run("echo ${left-none}; pwd; umask", deadline=Deadline.after(SOON))
        assert seen.lines[0] == "none" and seen.lines[1] != "/tmp" and seen.lines[2] != "0000"


def test_a_guest_that_dies_ends_the_wait_at_once() -> None:
    with talk() as (channel, liveness):
        threading.Timer(0.1, liveness.end, [lambda: GuestCrashed("panic")]).start()
        started = time.monotonic()
        with pytest.raises(GuestCrashed):
            channel.run("sleep 1000", deadline=Deadline.after(60.0))
        assert time.monotonic() - started < 10.0


def test_nobody_at_the_other_end_is_noticed() -> None:
    with talk() as (channel, _), pytest.raises(WaitTimedOut, match="no shell"):
        channel.greet(Deadline.after(0.3))


def test_frames_announce_what_follows() -> None:
    assert port_frames.run("n", "id\n\nls\n", b"in") == b"run n 3 2\nid\n\nls\nin"
    assert port_frames.run("n", "id -u", b"") == b"do n id -u\n"
    assert [port_frames.run("n", script, b"")[:4] for script in ("", " id", "id \t", "id\n\n")] == [b"run "] * 4
    with pytest.raises(ValueError, match="NUL"):
        port_frames.run("n", "\0", b"")
    result = port_frames.ResultHeader(status=1, output=2, errors=3)
    assert port_frames.parse_header(b"channel n result 1 2 3", "n") == result
    assert port_frames.parse_header(b"channel n hello boot", "n") == port_frames.Hello(boot_id="boot")
