"""Counting the instructions of a guest under TCG: the plugin counter.c, built on this host, and its shared memory."""

from __future__ import annotations

import contextlib
import importlib.resources
import mmap
import os
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifsea_testbed.errors import HostError, NotJudged, Reason
from lifsea_testbed.support.host_packages import install_hint
from lifsea_testbed.support.programs import run_tool
from lifsea_testbed.support.sanitize import printable

#: The layout of counter.c: four numbers, then the tables.
_SAMPLES, _MARKS, _PROGRAMS, _NAME = 1 << 17, 1 << 18, 1 << 13, 128
_HEAD, _MARK, _PROGRAM = struct.Struct("<4Q"), struct.Struct("<7Q"), struct.Struct(f"<5Q{_NAME}s")
_SIZE = _HEAD.size + (_SAMPLES + _MARKS) * _MARK.size + _PROGRAMS * _PROGRAM.size
#: The first QEMU with version 4 of the plugin interface.
_FIRST_QEMU = (9, 2)
#: How long the compiler may take (seconds).
_BUILDING = 60.0
#: The mark of counter.c for the boot sector; every other mark is a byte.
BOOT_SECTOR = 0x7C00


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The instructions executed so far: in user space or firmware, and in the kernel.

    `waiting` and `interrupts` are included in them: iterations of polling loops, and interrupts of the local APIC.
    """

    user: int = 0
    kernel: int = 0
    waiting: int = 0
    interrupts: int = 0

    @property
    def work(self) -> int:
        """The instructions whose number does not depend on the duration: without waiting and interrupts."""
        return self.user + self.kernel - self.waiting - self.interrupts

    def since(self, before: Counts) -> Counts:
        """The instructions executed since then."""
        return Counts(user=self.user - before.user, kernel=self.kernel - before.kernel,
                      waiting=self.waiting - before.waiting,
                      interrupts=self.interrupts - before.interrupts)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Counts at a moment (host's monotonic clock, seconds), and the byte written to ttyS0, or BOOT_SECTOR.

    `idle` is the time for which all CPUs were halted so far (seconds).
    """

    at: float
    counts: Counts
    idle: float = 0.0
    value: int = 0


@dataclass(frozen=True, kw_only=True)
class CountedProgram:
    """One start of a program: argv[0], time (host's monotonic clock, seconds), instructions in its address space.

    The entry without a name has the instructions outside any program: firmware, kernel start, forked children.
    """

    name: str
    at: float
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class CounterRecord:
    """All counts of one boot."""

    samples: list[Stamp] = field(default_factory=list)
    marks: list[Stamp] = field(default_factory=list)
    programs: list[CountedProgram] = field(default_factory=list)


class Tally:
    """The memory shared with the plugin; QEMU inherits `descriptor`."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("counter")
        os.ftruncate(self.descriptor, _SIZE)
        self._map = mmap.mmap(self.descriptor, _SIZE)

    def record(self) -> CounterRecord:
        """Reads the counts so far; QEMU may continue to count."""
        samples, marks, programs, _ = _HEAD.unpack_from(self._map)
        place = _HEAD.size
        taken = [_stamp(*fields) for fields in self._table(_MARK, place, min(samples, _SAMPLES))]
        place += _SAMPLES * _MARK.size
        seen = [_stamp(*fields) for fields in self._table(_MARK, place, min(marks, _MARKS))]
        place += _MARKS * _MARK.size
        started = [_program(*fields) for fields in self._table(_PROGRAM, place, min(programs, _PROGRAMS))]
        return CounterRecord(samples=taken, marks=seen, programs=started)

    def close(self) -> None:
        """Releases the memory; a second call does nothing."""
        if not self._map.closed:
            self._map.close()
            os.close(self.descriptor)

    def _table(self, layout: struct.Struct, place: int, count: int) -> Iterator[tuple[Any, ...]]:
        return layout.iter_unpack(self._map[place : place + count * layout.size])


class Counter:
    """The built plugin; each QEMU that counts inherits `library`."""

    def __init__(self, library: Path) -> None:
        self.library = os.open(library, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Closes the library."""
        os.close(self.library)


def require(version: str) -> None:
    """Checks that a QEMU of that version can load the plugin.

    Raises:
        NotJudged: it is too old.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _FIRST_QEMU:
        raise NotJudged(f"QEMU {version} cannot count instructions: version 4 of the plugin interface needs QEMU 9.2",
                        Reason.HOST)


@contextlib.contextmanager
def built(directory: Path) -> Iterator[Counter]:
    """Yields the plugin, built in that directory with the C compiler of the host.

    Raises:
        NotJudged: there is no compiler, or it failed.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NotJudged(f"no C compiler to build the counter of instructions with; {install_hint('gcc')}", Reason.HOST)
    source, library = directory / "counter.c", directory / "counter.so"
    source.write_text(importlib.resources.files("lifsea_testbed.qemu").joinpath("counter.c").read_text("utf-8"))
    command = [compiler, "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", str(library), str(source)]
    try:
        done = run_tool(command, within=_BUILDING, kept=["TMPDIR"])
    except HostError as error:
        raise NotJudged(f"the counter of instructions cannot be built: {error.happened}", Reason.HOST) from error
    if done.returncode:
        last = printable(done.stderr).strip().rpartition("\n")[2]
        raise NotJudged(f"the counter of instructions cannot be built: {last}", Reason.HOST)
    library.chmod(0o755)  # QEMU opens it again as the user that it is confined to, whatever the umask
    counter = Counter(library)
    try:
        yield counter
    finally:
        counter.close()


def _stamp(at: int, user: int, kernel: int, waiting: int, interrupts: int, idle: int, value: int) -> Stamp:
    counts = Counts(user=user, kernel=kernel, waiting=waiting, interrupts=interrupts)
    return Stamp(at=at / 1e9, counts=counts, idle=idle / 1e9, value=value)


def _program(at: int, user: int, kernel: int, waiting: int, interrupts: int, name: bytes) -> CountedProgram:
    counts = Counts(user=user, kernel=kernel, waiting=waiting, interrupts=interrupts)
    return CountedProgram(name=printable(name.partition(b"\0")[0]), at=at / 1e9, counts=counts)
