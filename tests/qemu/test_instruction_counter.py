"""The counter of instructions: built, loaded by QEMU, exact about a small guest; and whole boots, observed."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import statistics
from pathlib import Path

import pytest

from lifsea_testbed.boottime import kernel_only, observe
from lifsea_testbed.boottime.marks import BootMark, from_record
from lifsea_testbed.boottime.observation import BootNumber
from lifsea_testbed.disk.image import examine
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.qemu import emulator, instruction_counter
from lifsea_testbed.qemu.instruction_counter import CounterRecord
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.protocols import ConsoleLine
from tests.support import real
from tests.support.boot_sector import slow_image

LINES = 12
#: What a mark may be off by (seconds), and how many boots may be looked at for it.
MOST, BOOTS = 0.001, 5
#: Turns of the boot sector's loops before a byte, and the instructions around them.
TURNS = 8 * 65536


def boot(tmp_path: Path, *, waits: bool) -> tuple[list[ConsoleLine], CounterRecord, float]:
    """What a boot sector prints slowly: lines, and what was counted, and when it was powered on."""
    image = slow_image(tmp_path / "slow.raw", "t\n" * LINES, waits=waits)
    context = run_context(image=str(image), profile="reference", instance_type="ecs.g7.large",
                          accelerator="tcg", reports=tmp_path)  # fmt: skip
    bench = MachineFactory(context)
    with contextlib.ExitStack() as stack:
        counting = stack.enter_context(instruction_counter.built(tmp_path))
        spec = MachineSpec(name="slow", state=InitialState.STARTED, user_data=b"", counter=counting)
        machine = stack.enter_context(bench.create(spec))
        while machine.boot.transcript.position < LINES:
            machine.boot.liveness.pause(0.05, Deadline.after(30.0))
        assert machine.boot.counts is not None
        record, start = machine.boot.counts.record(), machine.boot.power_on
        lines = machine.boot.transcript.since()
    bench.close()
    return lines, record, start


@pytest.mark.boots
def test_loops_that_wait_are_told_from_work(tmp_path: Path) -> None:
    _, record, _ = boot(tmp_path, waits=True)
    firsts = [stamp.counts for stamp in record.marks if stamp.value == ord("t")]
    executed = [after.since(before) for before, after in itertools.pairwise(firsts)]
    assert all(each.work < 200 and 3 * TURNS < each.waiting < 5 * TURNS for each in executed)


@pytest.mark.boots
def test_marks_agree_with_the_processors_own_clock(tmp_path: Path) -> None:
    """The counter stamps a byte in the guest's OUT instruction itself; the console's time of its line is compared.

    On a busy host the console is read late, once for all lines of a boot: then another boot is looked at.
    """
    off = 1.0
    for _ in range(BOOTS):
        if off > MOST:
            lines, record, start = boot(tmp_path, waits=False)
            firsts = [stamp for stamp in record.marks if stamp.value == ord("t")]
            errors = [line.at - (stamp.at - start) for line, stamp in zip(lines, firsts, strict=True)]
            off = abs(statistics.median(errors))
    assert off <= MOST
    assert BootMark.BOOT_LOADER in from_record(record.marks)
    between = [after.counts.user - before.counts.user for before, after in itertools.pairwise(firsts)]
    assert all(2 * TURNS <= executed <= 2 * TURNS * 1.01 for executed in between)


@pytest.mark.parametrize(("version", "loads"), [("9.2.0", True), ("10.0.2", True), ("9.1.3", False), ("?", False)])
def test_an_older_qemu_does_not_count(version: str, loads: bool) -> None:
    if loads:
        instruction_counter.require(version)
    else:
        with pytest.raises(NotJudged, match=r"QEMU 9\.2"):
            instruction_counter.require(version)


def test_without_a_compiler_nothing_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotJudged, match="no C compiler"), instruction_counter.built(tmp_path):
        pass


def test_a_kernel_is_found_on_the_disk() -> None:
    found = kernel_only.find(examine(real.built("reference")))
    assert found.kernel[0x202:0x206] and found.kernel[0x1FE:0x200] == b"\x55\xaa"  # the boot protocol's mark
    assert any(word.startswith("root=") for word in found.options)
    words = kernel_only.command(emulator.Emulator(binary="qemu", version="10.0.2"), found.options)
    assert "rootwait" not in words[-1] and words[-1].endswith("initcall_debug loglevel=8 panic=-1")


@pytest.mark.nightly
@pytest.mark.boots
def test_a_kernel_alone_takes_the_same_to_the_digit() -> None:
    image, qemu = examine(real.built("reference")), emulator.find()
    first, second = kernel_only.run(image, qemu), kernel_only.run(image, qemu)
    assert first == second and first.until_root > 100_000 and len(first.initcalls) > 100


@pytest.mark.nightly
@pytest.mark.boots
def test_boots_are_observed(tmp_path: Path) -> None:
    with real.bench(tmp_path) as bench, observe.counting(bench) as counting:
        first, later = observe.boots(bench, "observed", counting, until=BootMark.KUBELET, which=tuple(BootNumber))
    for seen in (first, later):
        assert sum(phase.duration for phase in seen.phases) == pytest.approx(seen.marks[BootMark.USER_DATA])
        order = [BootMark.BOOT_LOADER, BootMark.KERNEL, BootMark.INIT, BootMark.SYSTEMD, BootMark.USER_DATA,
                 BootMark.FINISHED, BootMark.KUBELET]  # fmt: skip
        assert [mark for mark in seen.marks if mark in order] == order
        assert seen.error < 0.5
        assert "containerd.service" in [unit.name for unit in seen.units]
    assert {"/usr/bin/containerd", "/sbin/init"} <= set(first.programs)
    assert first.is_counted and first.progress[BootMark.USER_DATA].counts.work > 1e9
