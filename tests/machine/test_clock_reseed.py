"""The program that steps the clock of a restored guest, started after the restore or waiting since before the save."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lifsea_testbed.console import port_frames
from lifsea_testbed.console.channel import PortChannel
from lifsea_testbed.errors import ChannelError
from lifsea_testbed.machine import clock_reseed
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.protocols import CommandResult, Shell
from tests.support.fakes import FakeShell

SOURCE = Path(clock_reseed.__file__).with_name("clock_reseed.S")


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, int]]:
    """The program, and the offset of each symbol in it."""
    directory = tmp_path_factory.mktemp("assembled")
    subprocess.run(["as", "-o", "program.o", str(SOURCE)], cwd=directory, check=True)
    subprocess.run(["ld", "--oformat", "binary", "-Ttext=0x400000", "-o", "program.elf", "program.o"], cwd=directory,
                   check=True)
    symbols = subprocess.run(["nm", "program.o"], cwd=directory, capture_output=True, text=True, check=True).stdout
    offsets = {name: int(value, 16) for value, _, name in map(str.split, symbols.splitlines())}
    return (directory / "program.elf").read_bytes(), offsets


@pytest.mark.parametrize("step", [0, 1, 86_400_000_000, -1, -90_000_001])
def test_the_program_is_what_its_source_assembles_to(assembled: tuple[bytes, dict[str, int]], step: int) -> None:
    program, offsets = bytearray(assembled[0]), assembled[1]
    struct.pack_into("<qq", program, offsets["seconds"], *divmod(step, 1_000_000))
    program[offsets["seed"]:offsets["end"]] = seed = os.urandom(64)
    assert clock_reseed.program(step=step, seed=seed) == bytes(program)


def test_the_waiting_program_has_its_frames_filled_in(assembled: tuple[bytes, dict[str, int]]) -> None:
    """Its greeting, and the header in front of its answer, are frames of the channel."""
    program, offsets = bytearray(assembled[0]), assembled[1]
    greeting, header = b"channel 0123456789abcdef result 0 0 0\n", b"channel 0123456789abcdef result 0 208 0\n"
    sizes = {"greeting_size": len(greeting), "input_size": offsets["INPUT"], "answer_start": 0, "answer_size": 40 + 208}
    for name, value in sizes.items():
        struct.pack_into("<Q", program, offsets[name], value)
    program[offsets["greeting"]:offsets["greeting"] + len(greeting)] = greeting
    program[offsets["frame"]:offsets["timex"]] = header
    assert clock_reseed.waiting_program("0123456789abcdef") == bytes(program)
    assert len(clock_reseed.parameters(step=0, seed=bytes(64))) == offsets["INPUT"]


@pytest.mark.parametrize(("status", "fraction"), [(0, 250_000), (0x2000, 250_000_000)])
def test_the_clock_is_read_in_the_unit_that_the_kernel_keeps(status: int, fraction: int) -> None:
    timex = struct.pack("<I36xI28xqq", 0x100, status, 7, fraction).ljust(208, b"\0")
    shell = FakeShell({"chmod": timex.decode("latin-1")})
    shell.run = lambda *_, **__: SimpleNamespace(exit_status=0, output=timex, stderr="")  # type: ignore[method-assign,assignment]
    assert clock_reseed.step_and_reseed(shell, step=0) == 7_250_000


@pytest.mark.parametrize(("status", "message"), [
    (1, "step its clock"), (3, "reseed its random"), (126, "from /run/lifsea-testbed, /dev/shm"),
])  # fmt: skip
def test_a_guest_that_refuses_names_the_operation(status: int, message: str) -> None:
    with pytest.raises(ChannelError, match=message):
        clock_reseed.step_and_reseed(FakeShell({"chmod": (status, "")}), step=0)


@pytest.mark.parametrize(("status", "output", "message"), [(2, b"", "take entropy"), (0, b"short", "return its clock")])
def test_a_waiting_program_that_fails_names_the_operation(status: int, output: bytes, message: str) -> None:
    header = port_frames.ResultHeader(status=status, output=len(output), errors=0)
    channel = cast(PortChannel, SimpleNamespace(lend=lambda *_: header, give=lambda *_: (header, output)))
    with pytest.raises(ChannelError, match=message):
        clock_reseed.step_and_reseed_waiting(channel, "n", step=0, deadline=Deadline.after(1.0))
    if status:
        with pytest.raises(ChannelError, match=message):
            program = clock_reseed.WaitingProgram(path="/run/program", nonce="n")
            clock_reseed.start_waiting_program(channel, program, Deadline.after(1.0))


class HostShell:
    """A shell of this host, as the channel's is: the input is a file in the first place, which is mounted so."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, *, exec_from: str) -> None:
        self.places = [place / name for name in ("run", "shm", "etc")]
        monkeypatch.setattr(clock_reseed, "_PLACES", [str(place / "missing"), *map(str, self.places)])
        self._mounts = "".join(f"mount -t tmpfs {'' if each.name == exec_from else '-o noexec'} tmpfs {each}\n"
                               for each in self.places)  # fmt: skip
        for each in self.places:
            each.mkdir()

    def run(self, command: str, *, check: bool = True, within: float = 20.0, input: bytes = b"") -> CommandResult:
        script = f"{self._mounts}cat >{self.places[0]}/input; exec sh -c \"$1\" <{self.places[0]}/input"
        done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh",
                               f"{command}"], input=input, capture_output=True, check=False)  # fmt: skip
        return CommandResult(script=command, exit_status=done.returncode, output=done.stdout, errors=done.stderr,
                             duration=0.0)  # fmt: skip


@pytest.mark.parametrize("exec_from", ["run", "shm", "etc"])
def test_the_programs_run_from_the_first_place_that_lets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exec_from: str
) -> None:
    """One that steps the clock by nothing, and one that waits; the clock of this host is not set."""
    shell = cast(Shell, HostShell(tmp_path, monkeypatch, exec_from=exec_from))
    assert clock_reseed.install_waiting_program(shell).path == str(tmp_path / exec_from / "lifsea-testbed-clock")
    unharmed = "#!/bin/sh\nread -r rest || exit 5\nprintf %0208d 0\n"
    monkeypatch.setattr(clock_reseed, "program", lambda **_: f"{unharmed}\n".encode())
    monkeypatch.setattr(clock_reseed, "_parse_clock", lambda status, output, errors: 1000 * status + len(output))
    assert clock_reseed.step_and_reseed(shell, step=0) == 208


def test_a_guest_that_runs_programs_from_nowhere_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = cast(Shell, HostShell(tmp_path, monkeypatch, exec_from="none"))
    for attempt in (clock_reseed.install_waiting_program, lambda shell: clock_reseed.step_and_reseed(shell, step=0)):
        with pytest.raises(ChannelError, match=r"did not run a program from .*/missing, .*/etc \(status 126\)"):
            attempt(shell)
    assert list(tmp_path.glob("*/*")) == []
