"""The command channel on a serial line: terminal.sh on a terminal of this host, to which others write as well."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifsea_testbed.console import serial_channel
from lifsea_testbed.console.serial_channel import CommandEnd, SerialChannel, ShellPlace, pieces
from lifsea_testbed.console.serial_frames import Frame, Splitter, octal
from lifsea_testbed.console.transcript import Transcript
from lifsea_testbed.errors import ChannelError, GuestCrashed, WaitTimedOut
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness

SOON = 30.0
NONCE = "0123456789abcdef"
_TOOLS = ("sh", "cat", "head", "tail", "wc", "rm", "mv", "mkdir", "setsid", "base64", "od", "stty", "sha256sum",
          "sleep")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Place:
    channel: SerialChannel
    transcript: Transcript
    liveness: Liveness
    port: Path


@pytest.fixture(params=["", "base64"], ids=["all-tools", "without-base64"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A channel to terminal.sh on a terminal that echoes and edits lines until terminal.sh switches that off."""
    guest, host = socket.socketpair()
    port = tmp_path / "ttyS0"
    carrier = subprocess.Popen(["socat", f"FD:{guest.fileno()}", f"PTY,link={port}"], pass_fds=[guest.fileno()])
    guest.close()
    deadline = Deadline.after(SOON)
    while not port.exists() and not deadline.expired:
        time.sleep(0.01)
    script = importlib.resources.files("lifsea_testbed.console").joinpath("terminal.sh")
    shell = subprocess.Popen(["sh", str(script), str(port), str(tmp_path / "work")], start_new_session=True,
                             env={**os.environ, "PATH": tools_without(request.param, tmp_path / "bin")})  # fmt: skip
    liveness = Liveness()
    transcript = Transcript(host, liveness=liveness, file=tmp_path / "transcript.txt")
    channel = SerialChannel(transcript, liveness=liveness)
    transcript.set_frame_handler(channel.on_frame)
    transcript.start(time.monotonic())
    yield Place(channel=channel, transcript=transcript, liveness=liveness, port=port)
    os.killpg(shell.pid, signal.SIGKILL)
    carrier.kill()
    shell.wait()
    carrier.wait()
    transcript.close()
    liveness.close()


def tools_without(missing: str, directory: Path) -> str:
    """A search path with the tools that terminal.sh names, less one."""
    directory.mkdir()
    for tool in _TOOLS:
        found = next(path for path in (Path("/usr/bin") / tool, Path("/bin") / tool) if path.exists())
        if tool != missing:
            (directory / tool).symlink_to(found)
    return str(directory)


@contextlib.contextmanager
def noise(port: Path, make: Callable[[random.Random], bytes], pause: float = 0.002) -> Iterator[None]:
    """Another process that writes to the terminal all the time."""
    stop = threading.Event()

    def write() -> None:
        dice = random.Random(7)
        with contextlib.suppress(OSError), port.open("wb", buffering=0) as terminal:
            while not stop.is_set():
                terminal.write(make(dice))
                time.sleep(pause)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()


def kernel(dice: random.Random) -> bytes:
    return b"[%5d.%06d] eth0: link %s, queue %d: \"reset\"\r\n" % (
        dice.randrange(99), dice.randrange(10**6), dice.choice([b"up", b"down"]), dice.randrange(9))  # fmt: skip


def look_alike(dice: random.Random) -> bytes:
    return b"\x1e%016x end 7 %s\n" % (dice.getrandbits(64), dice.choice([b"0:0:0:none:none", b"", b"1"]))


def random_bytes(dice: random.Random) -> bytes:
    return dice.randbytes(dice.randrange(1, 40))


def run(place: Place, script: str, *, input: bytes = b"", within: float = SOON) -> tuple[int, bytes, bytes]:
    result = place.channel.run(script, input=input, deadline=Deadline.after(within))
    return result.exit_status, result.output, result.errors


def test_a_greeting_brings_the_boot_id(place: Place) -> None:
    assert place.channel.greet(Deadline.after(SOON)) == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_status_output_and_errors_come_apart(place: Place) -> None:
    place.channel.greet(Deadline.after(SOON))
    assert run(place, "echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
    assert run(place, "kill -9 $$")[0] == 137


@pytest.mark.parametrize("size", [0, 1, 4096, 50_000])
def test_every_byte_goes_and_comes_back(place: Place, size: int) -> None:
    place.channel.greet(Deadline.after(SOON))
    sent = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert run(place, "cat", input=sent) == (0, sent, b"")


@pytest.mark.parametrize("make", [kernel, look_alike, random_bytes])
def test_others_may_write_to_it_all_the_time(place: Place, make: Callable[[random.Random], bytes]) -> None:
    with noise(place.port, make):
        place.channel.greet(Deadline.after(SOON))
        sent = random.Random(1).randbytes(5000)
        for status in range(5):
            assert run(place, f"cat; exit {status}", input=sent, within=60.0) == (status, sent, b"")


def test_what_the_kernel_prints_into_a_frame_is_on_record(place: Place) -> None:
    with noise(place.port, kernel, pause=0.0005):
        place.channel.greet(Deadline.after(SOON))
        run(place, "head -c 100000 /dev/zero", within=60.0)
    lines = [line.text for line in place.transcript.since()]
    strange = [line for line in lines if line and not line.startswith(("[", "hello"))]  # greetings may be echoed
    assert len(lines) > 20 and strange == []


def test_an_overrun_is_killed_and_the_channel_goes_on(place: Place) -> None:
    place.channel.greet(Deadline.after(SOON))
    with pytest.raises(WaitTimedOut, match="was killed") as caught:
        run(place, "echo so far; sleep 77 & sleep 77", within=1.0)
    assert caught.value.evidence == "so far\n"
    assert run(place, "echo on") == (0, b"on\n", b"")


def test_a_guest_that_dies_ends_the_wait_at_once(place: Place) -> None:
    place.channel.greet(Deadline.after(SOON))
    threading.Timer(0.2, place.liveness.end, [lambda: GuestCrashed("panic")]).start()
    started = time.monotonic()
    with pytest.raises(GuestCrashed):
        run(place, "sleep 5", within=60.0)
    assert time.monotonic() - started < 3.0


def test_nobody_at_the_other_end_is_noticed() -> None:
    class Nobody:
        def transmit(self, data: bytes, deadline: Deadline) -> None:
            pass

    channel = SerialChannel(Nobody(), liveness=Liveness())
    with pytest.raises(WaitTimedOut, match="no shell"):
        channel.greet(Deadline.after(0.2))


class Prompt:
    """A shell of this host at the prompt of a terminal of its own, which waits so many seconds before it reads."""

    def __init__(self, shell: str, late: float = 0.0) -> None:
        self.channel = SerialChannel(self, liveness=Liveness())
        self.typed = 0
        self._late, self._splitter = Deadline.after(late), Splitter()
        environment = {"PS1": "# ", "PATH": os.environ["PATH"]}
        self._shell: pexpect.spawn[bytes] = pexpect.spawn(shell, timeout=SOON, env=environment)
        self._reading = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Prompt:
        self._reading.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill(signal.SIGKILL)
        self._reading.join()
        self._shell.close()

    def transmit(self, data: bytes, deadline: Deadline) -> None:
        self.typed += 1
        self._shell.send(data)

    def _read(self) -> None:
        while not self._late.expired:
            time.sleep(0.01)
        with contextlib.suppress(pexpect.EOF, OSError):
            while True:
                for frame in self._splitter.feed(self._shell.read_nonblocking(4096, SOON))[1]:
                    self.channel.on_frame(frame)


EXT4 = "/dev/root / ext4 ro,relatime 0 0"


@pytest.mark.parametrize("shell", ["bash --norc", "dash -i", "busybox sh"])
@pytest.mark.parametrize(("mounts", "cmdline", "mark", "place"), [
    (["rootfs / rootfs rw", EXT4], "root=/dev/vda4 ro", "", ShellPlace.SYSTEM),
    ([EXT4, "none /mnt rootfs rw"], "console=ttyS0 root=LABEL=root", "", ShellPlace.SYSTEM),
    (["rootfs / rootfs rw", "proc /proc proc rw"], "quiet root=LABEL=gone rw", "", ShellPlace.INITRAMFS),
    (["rootfs / rootfs rw"], "console=ttyS0 noroot=/dev/vda", "", ShellPlace.SYSTEM),
    (["rootfs / rootfs rw"], "root=/dev/ram0", "", ShellPlace.SYSTEM),
    (["overlay / overlay rw"], "root=/dev/vda4", "initrd-release", ShellPlace.INITRAMFS),
])  # fmt: skip
def test_a_shell_at_the_prompt_says_whether_it_is_the_initramfss(
    tmp_path: Path, shell: str, mounts: list[str], cmdline: str, mark: str, place: ShellPlace
) -> None:
    """A system that runs from its initramfs was not told of another root, or of a RAM disk."""
    line = serial_channel._READY
    for path, text in (("mounts", "\n".join(mounts)), ("cmdline", cmdline)):
        (tmp_path / path).write_text(f"{text}\n")
        line = line.replace(f"/proc/{path}", str(tmp_path / path))
    (tmp_path / mark).touch()
    line = line.replace("/etc/initrd-release", str(tmp_path / "initrd-release"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serial_channel, "_READY", line)
        with Prompt(shell) as prompt:
            assert prompt.channel.wait_for_shell(Deadline.after(SOON)) is place


def test_a_busy_shell_is_not_buried_and_its_late_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause doubles, over several calls, and what an earlier one typed is an answer to a later one."""
    monkeypatch.setattr(serial_channel, "_REPEAT_EVERY", 0.05)
    with Prompt("dash -i", late=1.5) as prompt:
        with pytest.raises(WaitTimedOut, match="no shell answered at a prompt"):
            prompt.channel.wait_for_shell(Deadline.after(0.4))
        assert prompt.channel.wait_for_shell(Deadline.after(SOON)) is ShellPlace.SYSTEM
        assert 4 <= prompt.typed <= 7


class Announcing:
    """A guest that answers each request until the output, of which it announces a gigabyte, and sends `sent` bytes."""

    def __init__(self, sent: int) -> None:
        self.channel = SerialChannel(self, liveness=Liveness())
        self._left = sent

    def transmit(self, data: bytes, deadline: Deadline) -> None:
        verb, nonce, *rest = data.decode().split()
        answers = {"put": f"{rest[0]}:{rest[1]}" if verb == "put" else "", "run": "0:100000000:0:none:none"}
        if verb in answers:
            self._answer("end" if verb == "run" else verb, nonce, answers[verb])
        elif verb == "get" and self._left >= int(rest[2]):
            self._left -= int(rest[2])
            self._answer("part", nonce, f"{rest[0]}:{rest[1]}:{'00' * int(rest[2])}")

    def _answer(self, kind: str, nonce: str, payload: str) -> None:
        self.channel.on_frame(Frame(nonce=nonce, kind=kind, payload=payload.encode()))


def test_what_a_guest_announces_does_not_lengthen_the_wait() -> None:
    started = time.monotonic()
    with pytest.raises(WaitTimedOut, match="bytes of output arrived intact within 1 s while running 'true'"):
        Announcing(20_000).channel.run("true", deadline=Deadline.after(1.0))
    assert time.monotonic() - started < 5.0


def test_a_guest_that_sends_no_more_of_what_it_announced_breaks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_channel, "IDLE", 0.3)
    with pytest.raises(ChannelError, match="only 6000 of 100000000 bytes of output arrived intact"):
        Announcing(6000).channel.run("true", deadline=Deadline.after(SOON))


@pytest.mark.parametrize("payload", [b"", b"1:2:3", b"x:1:1:a:b", b"0:99999999999:0:a:b", b"0:2000000000:0:a:b"])
def test_an_end_that_breaks_the_protocol_is_refused(payload: bytes) -> None:
    with pytest.raises(ChannelError):
        CommandEnd.parse(payload)


# The frames


def frame(kind: str, payload: str) -> bytes:
    return f"\x1e{NONCE} {kind} {len(payload)} {payload}\n".encode()


def split(*chunks: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    splitter, text, frames = Splitter(), b"", list[Frame]()
    for chunk in chunks:
        more, found = splitter.feed(chunk)
        text, frames = text + more, frames + found
    return text, [(found.kind, found.payload) for found in frames]


def test_text_and_frames_are_told_apart() -> None:
    stream = b"before\r\n" + frame("part", "out:0:QUJD") + b"after"
    assert split(stream) == (b"before\r\nafter", [("part", b"out:0:QUJD")])
    assert split(*(bytes([byte]) for byte in stream)) == split(stream)


@pytest.mark.parametrize("at", range(1, len(frame("part", "out:0:QUJD"))))
def test_a_kernel_message_is_cut_out_of_a_frame_wherever_it_falls(at: int) -> None:
    whole, message = frame("part", "out:0:QUJD"), b"[   12.345678] Kernel panic - not syncing: out:0\r\n"
    assert split(whole[:at] + message + whole[at:]) == (message, [("part", b"out:0:QUJD")])


def test_what_lost_its_shape_is_text() -> None:
    assert split(f"\x1e{NONCE} end 9 short\n".encode()) == (f"{NONCE} end 9 short\n".encode(), [])
    assert split(b"\x1e" + frame("end", "1")) == (b"\n", [("end", b"1")])


@settings(max_examples=2000)
@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([b"\x1e", b"\n", frame("end", "0:0:0:none:none")]))))
def test_no_stream_upsets_the_splitter(chunks: list[bytes]) -> None:
    text, frames = split(*chunks)
    assert len(text) <= sum(map(len, chunks)) + len(chunks) + text.count(b"\n")
    assert all(kind.isalpha() for kind, _ in frames)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_printf_makes_the_same_bytes_again(data: bytes) -> None:
    encoded = octal(data).decode()
    assert not set(encoded) & set(" \t\n\0")
    assert subprocess.run(["printf", "%b", encoded], capture_output=True, check=True).stdout == data


@pytest.mark.parametrize("as_base64", [True, False])
def test_pieces_fit_in_a_line(as_base64: bool) -> None:
    found = list(pieces(bytes(range(256)) * 40, as_base64=as_base64))
    assert len(found) > 1 and max(map(len, found)) <= 3_400 and list(pieces(b"", as_base64=as_base64)) == []


def test_frames_that_nobody_reads_take_no_memory() -> None:
    """A guest repeats the frame of a request, which it knows, while no command runs."""
    guest = Announcing(0)
    with contextlib.suppress(WaitTimedOut):
        guest.channel.run("true", deadline=Deadline.after(0.1))
    nonce = guest.channel._nonce
    for _ in range(1000):
        assert guest.channel.on_frame(Frame(nonce=nonce, kind="part", payload=bytes(10_000)))
    assert guest.channel._arrived.qsize() <= 64
