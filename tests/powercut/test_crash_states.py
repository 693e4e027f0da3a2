"""Crash states: read from a log, named, compared and written, against a naive model."""

from __future__ import annotations

import contextlib
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.disk.source import ByteSource, RawFile
from lifsea_testbed.errors import CallerError, TestbedError
from lifsea_testbed.powercut import qcow2_writer
from lifsea_testbed.powercut.crash_states import CrashKind, CrashState, CrashStates, smallest
from lifsea_testbed.powercut.disk_contents import DiskContents
from lifsea_testbed.powercut.write_log import SECTOR, WriteLog, replay

SECTORS = 24
FLUSH = (0, b"")


@dataclass(frozen=True)
class Bytes:
    """A source in memory."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.content[offset:offset + length]


def logged(requests: Sequence[tuple[int, bytes]], *, promised: int | None = None) -> bytes:
    """A log of writes (sector, data) and flushes."""
    count = len(requests) if promised is None else promised
    parts = [struct.pack("<QQQI", 0x6A736677736872, 1, count, SECTOR).ljust(SECTOR, b"\0")]
    for sector, data in requests:
        flags = 0 if data else 1
        parts += [struct.pack("<QQQQ", sector, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0"), data]
    return b"".join(parts)


def read(log: bytes) -> WriteLog:
    return WriteLog(Bytes(log), disk_size=SECTORS * SECTOR)


def filled(*numbers: int) -> bytes:
    return b"".join(bytes([number]) * SECTOR for number in numbers)


BASE = filled(*(number % 3 for number in range(SECTORS)))
# Few different contents, so that equal disks come about in several ways.
writes = st.integers(0, SECTORS - 1).flatmap(
    lambda sector: st.lists(st.integers(0, 2), min_size=1, max_size=min(SECTORS - sector, 12)).map(
        lambda numbers: (sector, filled(*numbers))))  # fmt: skip
requests = st.lists(writes | st.just(FLUSH), max_size=12).map(lambda some: [*some, FLUSH])


def model(made: Sequence[tuple[int, bytes]], state: CrashState) -> bytes:
    """The disk of a state, sector by sector."""
    kept, disk = dict(state.kept), bytearray(BASE)
    for place, (sector, data) in enumerate(made[:state.position]):
        some = data[:kept.get(place, len(data)) * SECTOR]
        disk[sector * SECTOR:sector * SECTOR + len(some)] = some
    return bytes(disk)


@given(requests)
def test_every_prefix_replays_as_the_model_says(made: list[tuple[int, bytes]]) -> None:
    log = read(logged(made))
    for count in range(len(made) + 1):
        whole = CrashState(name="", kind=CrashKind.PREFIX, position=count, latest=count)
        assert replay(BASE, log, count) == model(made, whole)


@given(requests)
@settings(max_examples=50)
def test_digests_are_equal_just_where_disks_are(made: list[tuple[int, bytes]]) -> None:
    log = read(logged(made))
    contents = DiskContents(log, Bytes(BASE))
    found = {contents.digest(state): model(made, state) for state in CrashStates(log.entries).enumerate()}
    for state in CrashStates(log.entries).enumerate():
        assert found[contents.digest(state)] == model(made, state)
    assert len(set(found.values())) == len(found)


@given(requests)
@settings(max_examples=50)
def test_names_are_unique_and_lead_back_to_their_states(made: list[tuple[int, bytes]]) -> None:
    states = CrashStates(read(logged(made)).entries)
    listed = list(states.enumerate())
    assert len({state.name for state in listed}) == len(listed)
    assert [states.find(state.name) for state in listed] == listed


@given(requests)
@settings(max_examples=25)
def test_clusters_hold_what_the_model_says(made: list[tuple[int, bytes]]) -> None:
    log = read(logged(made))
    contents = DiskContents(log, Bytes(BASE))
    for state in CrashStates(log.entries).enumerate():
        disk = bytearray(BASE)
        for cluster, content in contents.clusters(state):
            disk[cluster * 4096:(cluster + 1) * 4096] = content
        assert bytes(disk) == model(made, state)


@given(st.sets(st.integers(0, 30), min_size=1), st.sets(st.integers(0, 30)))
def test_a_loss_is_shrunk_to_what_breaks(needed: set[int], more: set[int]) -> None:
    tried: list[int] = []

    def breaks(some: Sequence[int]) -> bool:
        tried.append(len(some))
        return needed <= set(some)

    assert smallest(sorted(needed | more), breaks) == sorted(needed)
    assert all(tried)


def test_states_that_lack_several_writes_have_names_too() -> None:
    states = CrashStates(read(logged([(0, filled(1)), (1, filled(1)), (2, filled(1)), FLUSH])).entries)
    state = states.find("epoch 0, without writes 1+3")
    assert state.kept == ((0, 0), (2, 0))
    assert states.lacking(states.find("epoch 0"), [1, 3]) == state
    assert states.lost(states.find("epoch 0, after write 1")) == [2, 3]
    assert states.lost(states.find("epoch 0, without write 2")) == [2]


def test_a_cut_is_dated_by_the_flush_that_follows() -> None:
    """Writes that no flush has covered may be lost, even if success was announced after them."""
    made = [(0, filled(1)), FLUSH, (1, filled(1)), (2, filled(2, 2)), FLUSH, (3, filled(1))]
    kinds = [CrashKind.FLUSH, CrashKind.PREFIX, CrashKind.WITHOUT]
    states = list(CrashStates(read(logged(made)).entries, start=2).enumerate(kinds))
    assert [(state.name, state.position, state.latest) for state in states] == [
        ("epoch 1", 2, 4), ("epoch 2", 5, 6), ("epoch 1, after write 1", 3, 4), ("epoch 1, after write 2", 4, 4),
        ("epoch 2, after write 1", 6, 6), ("epoch 1, without write 1", 4, 4),
    ]  # fmt: skip


@pytest.mark.parametrize("name", [
    "epoch 9", "epoch 0, after write 0", "epoch 0, after write 3", "epoch 0, write 1 torn after 512 bytes",
    "epoch 0, without writes 1", "epoch 0, without writes 2+1", "epoch 0, without writes 1+3",
    "epoch 0, write 2 torn after 700 bytes", "epoch 1, without write 1", "epoch 00", "somewhere",
])  # fmt: skip
def test_an_unknown_state_is_refused(name: str) -> None:
    states = CrashStates(read(logged([(0, filled(1)), (1, filled(1, 1)), FLUSH])).entries)
    with pytest.raises(CallerError):
        states.find(name)


def test_entries_behind_the_promised_count_are_read() -> None:
    log = read(logged([FLUSH, (3, filled(1, 2))], promised=1))
    assert [(entry.sector, entry.sectors, entry.is_flush) for entry in log.entries] == [(0, 0, True), (3, 2, False)]
    assert log.count_at(log.entries[0].end) == 1


@pytest.mark.parametrize(("log", "why"), [
    (b"", "0 bytes"),
    (bytes(SECTOR), "magic 0x0"),
    (logged([(0, filled(1))]), "no flush"),
    (logged([FLUSH], promised=2), "after 1 of 2"),
    (logged([FLUSH, (SECTORS, filled(1))]), f"at {SECTORS}"),
    (logged([FLUSH, (0, filled(1, 1))])[:-SECTOR], "ends at byte"),
    (logged([FLUSH]) + bytes(SECTOR) + b"x" * SECTOR, "behind its end"),
], ids=["empty", "zeros", "no-flush", "too-few", "behind-the-disk", "torn", "rubbish"])  # fmt: skip
def test_an_unsound_log_is_the_harness_fault(log: bytes, why: str) -> None:
    with pytest.raises(TestbedError, match=why):
        read(log)


@pytest.mark.parametrize("size", [4096, 9 * 4096, 64 << 20, 20 << 30])
def test_a_made_disk_is_sound_and_shows_what_is_below(tmp_path: Path, size: int) -> None:
    held = {0: b"a" * 4096, size // 8192: b"m" * 4096, size // 4096 - 1: b"z" * 4096}
    path = tmp_path / "state.qcow2"
    qcow2_writer.write(path, held.items(), size=size)
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
    with RawFile(path) as file:
        disk = Qcow2(file, Bytes(b"b" * min(size, 1 << 20)))
        assert disk.size == size
        assert {number: disk.read_at(number * 4096, 4096) for number in held} == held
        if size > 4 * 4096:
            assert disk.read_at(4096, 4096) == b"b" * 4096


def test_a_state_holds_the_writes_after_its_milestone(tmp_path: Path) -> None:
    """The layers together equal the naive model's disk; there are two once the log is long."""
    made = [request for number in range(100) for request in ((number % SECTORS, filled(number)), FLUSH)]
    log, base = read(logged(made)), Bytes(BASE)
    contents, states = DiskContents(log, base), CrashStates(log.entries)
    with qcow2_writer.Milestones(contents, states, tmp_path) as milestones:
        for name in ("epoch 0", "epoch 31, after write 1", "epoch 32", "epoch 70", "epoch 99, without write 1"):
            state = states.find(name) if "99" not in name else states.lacking(states.find("epoch 99"), [1])
            disk: ByteSource = base
            layers = milestones.write(tmp_path / "state.qcow2", state)
            with contextlib.ExitStack() as stack:
                for layer in layers:
                    disk = Qcow2(stack.enter_context(RawFile(layer)), disk)
                assert disk.read_at(0, len(BASE)) == contents.disk(state).read_at(0, len(BASE))
                assert disk.read_at(0, len(BASE)) == replay(BASE, log, state.position if "without" not in name else 198)
            assert len(layers) == (2 if states.epoch(state).first >= 64 else 1)
    assert list(tmp_path.glob("milestones-*")) == []


def test_a_large_state_is_made_whole(tmp_path: Path) -> None:
    """More clusters than one block of reference counts holds."""
    held = {number * 3: bytes([number % 251]) * 4096 for number in range(5000)}
    path = tmp_path / "state.qcow2"
    qcow2_writer.write(path, held.items(), size=1 << 30)
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
    with RawFile(path) as file:
        assert all(Qcow2(file).read_at(number * 4096, 4096) == content for number, content in held.items())
