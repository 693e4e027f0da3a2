"""Renewal: the program that a restored guest is told the time by, at once or after it waited."""

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
from tests.support.fakes import FakeShell

SOURCE = Path(clock_reseed.__file__).with_name("renew.S")


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, int]]:
    """The program, and where in it each symbol is."""
    place = tmp_path_factory.mktemp("assembled")
    subprocess.run(["as", "-o", "renew.o", str(SOURCE)], cwd=place, check=True)
    subprocess.run(["ld", "--oformat", "binary", "-Ttext=0x400000", "-o", "renew.elf", "renew.o"], cwd=place,
                   check=True)
    symbols = subprocess.run(["nm", "renew.o"], cwd=place, capture_output=True, text=True, check=True).stdout
    places = {name: int(value, 16) for value, _, name in map(str.split, symbols.splitlines())}
    return (place / "renew.elf").read_bytes(), places


@pytest.mark.parametrize("step", [0, 1, 86_400_000_000, -1, -90_000_001])
def test_the_program_is_what_its_source_assembles_to(assembled: tuple[bytes, dict[str, int]], step: int) -> None:
    program, places = bytearray(assembled[0]), assembled[1]
    struct.pack_into("<qq", program, places["seconds"], *divmod(step, 1_000_000))
    program[places["seed"]:places["end"]] = seed = os.urandom(64)
    assert clock_reseed.program(step=step, seed=seed) == bytes(program)


def test_the_program_that_waits_has_what_it_says_filled_in(assembled: tuple[bytes, dict[str, int]]) -> None:
    """Its greeting, and the header in front of its answer, are frames of the channel."""
    program, places = bytearray(assembled[0]), assembled[1]
    ready, header = b"channel 0123456789abcdef result 0 0 0\n", b"channel 0123456789abcdef result 0 208 0\n"
    for name, value in {"ready": len(ready), "given": places["GIVEN"], "answer": 0, "answered": 40 + 208}.items():
        struct.pack_into("<Q", program, places[name], value)
    program[places["greeting"]:places["greeting"] + len(ready)] = ready
    program[places["frame"]:places["timex"]] = header
    assert clock_reseed.waiting_program("0123456789abcdef") == bytes(program)
    assert len(clock_reseed.told(step=0, seed=bytes(64))) == places["GIVEN"]


@pytest.mark.parametrize(("status", "fraction"), [(0, 250_000), (0x2000, 250_000_000)])
def test_the_clock_is_read_in_the_unit_that_the_kernel_keeps(status: int, fraction: int) -> None:
    timex = struct.pack("<I36xI28xqq", 0x100, status, 7, fraction).ljust(208, b"\0")
    shell = FakeShell({"chmod": timex.decode("latin-1")})
    shell.run = lambda *_, **__: SimpleNamespace(exit_status=0, output=timex, stderr="")  # type: ignore[method-assign,assignment]
    assert clock_reseed.renew(shell, step=0) == 7_250_000


@pytest.mark.parametrize(("status", "said"), [(1, "step its clock"), (3, "seed its generator"), (126, "from /run")])
def test_a_guest_that_takes_no_seed_is_told_of(status: int, said: str) -> None:
    with pytest.raises(ChannelError, match=said):
        clock_reseed.renew(FakeShell({"chmod": (status, "")}), step=0)


@pytest.mark.parametrize(("status", "output", "said"), [(2, b"", "take entropy"), (0, b"short", "say what time")])
def test_a_program_that_waited_in_vain_is_told_of(status: int, output: bytes, said: str) -> None:
    header = port_frames.ResultHeader(status=status, output=len(output), errors=0)
    channel = cast(PortChannel, SimpleNamespace(lend=lambda *_: header, give=lambda *_: (header, output)))
    with pytest.raises(ChannelError, match=said):
        clock_reseed.wake(channel, "n", step=0, deadline=Deadline.after(1.0))
    if status:
        with pytest.raises(ChannelError, match=said):
            clock_reseed.wait(channel, "n", Deadline.after(1.0))
