"""What a machine does is the same under KVM and under emulation: shown by guests of some instructions on both."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.boottime import campaign, observe
from lifsea_testbed.boottime.marks import END, BootMark
from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.ecs import instance_types
from lifsea_testbed.errors import GuestCrashed, NotJudged, Reason
from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.fidelity import HardwareFidelity
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import BootSection
from lifsea_testbed.qemu import processor
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.storage import MemoryFile, create_memory_file
from lifsea_testbed.support.deadline import Deadline
from tests.support import disks, quick
from tests.support.boot_sector import counting_image, raw_image
from tests.support.quick import needs_kvm

pytestmark = pytest.mark.boots
KVM, TCG = AcceleratorKind.KVM, AcceleratorKind.TCG
both = pytest.mark.parametrize("kind", [TCG, pytest.param(KVM, marks=needs_kvm)])
UP = "up and running\n"
#: The lines of a kernel and of systemd, by which a console marks the phases of a boot.
PHASES = ("[    0.000000] Linux version 6.1\n", "[    0.513370] Run /sbin/init as init process\n",
          "[    0.700000] systemd[1]: systemd 257 running\n", UP)  # fmt: skip


def answer(machine: Machine, received: bytes, expected: str) -> None:
    """Makes sure that the counting guest answers with that letter."""
    position = machine.boot.transcript.position
    machine.boot.transcript.send(received)
    assert machine.boot.transcript.wait_for_prompt(re.compile(f"{expected}$"), position, Deadline.after(20)), \
        machine.boot.transcript.tail()  # fmt: skip


def with_memory(factory: MachineFactory, path: Path, *, copied: bool = False, state: Path | None = None) -> MemoryFile:
    if not path.exists():
        create_memory_file(path, size=factory.context.memory)
    return MemoryFile(path=path, copied=copied, state=state)


@both
@pytest.mark.parametrize("name", instance_types.CATALOGUE)
def test_qemu_accepts_the_machine_of_every_size_as_it_stands(tmp_path: Path, name: str, kind: AcceleratorKind) -> None:
    with quick.factory(raw_image(tmp_path / "disk.raw", UP), quick.measured(kind), instance_type=name) as factory, \
            factory.create(MachineSpec(name="sized", state=InitialState.STARTED)) as machine:  # fmt: skip
        assert machine.boot.execute("query-status")["running"]
        assert len(machine.boot.execute("query-cpus-fast")) == factory.instance_type.cpus
        assert machine.boot.process.stderr().count("error") == 0


@both
def test_the_console_marks_the_phases_by_the_clock(tmp_path: Path, kind: AcceleratorKind) -> None:
    with quick.factory(raw_image(tmp_path / "disk.raw", "".join(PHASES)), quick.measured(kind)) as factory:
        (seen,) = observe.boots(factory, "marked", None)
    assert not seen.is_counted and not seen.progress
    assert [*seen.marks] == [BootMark.POWER_ON, BootMark.FIRST_BYTE, BootMark.KERNEL, BootMark.INIT, BootMark.SYSTEMD,
                             END]  # fmt: skip
    assert 0 < seen.marks[BootMark.KERNEL] <= seen.marks[END] == seen.phases[-1].end


@needs_kvm
def test_the_clock_judges_the_boot_under_kvm_and_needs_no_kubelet(tmp_path: Path) -> None:
    with quick.factory(raw_image(tmp_path / "disk.raw", UP), quick.measured(KVM)) as factory:
        seen = campaign.cold_boots(factory, 3)
    assert all(BootMark.KUBELET not in one.marks and not one.is_counted for one in seen.seen)
    as_sold = replace(seen, accelerator=replace(seen.accelerator, speed=9000.0))
    assert as_sold.held_to(BootSection(promised=600)).kept
    assert not as_sold.held_to(BootSection(promised=0.001)).kept
    with pytest.raises(NotJudged, match=r"KVM runs 100\.0 M") as caught:
        replace(seen, accelerator=replace(seen.accelerator, speed=100.0)).held_to(BootSection(promised=600))
    assert caught.value.reason is Reason.HOST


@both
def test_a_saved_machine_goes_on_where_it_stood(tmp_path: Path, kind: AcceleratorKind) -> None:
    require_saved(counting_image(tmp_path / "disk.raw", UP), kind)


@pytest.mark.parametrize("form", [form for form in DiskFormat if form is not DiskFormat.RAW])
def test_a_machine_of_an_image_in_another_format_is_saved_as_well(tmp_path: Path, form: DiskFormat) -> None:
    """QEMU's drivers of VHD, VHDX and VMDK keep a machine from being moved to another host."""
    require_saved(disks.converted(counting_image(tmp_path / "disk.raw", UP), form, tmp_path), TCG)


def require_saved(disk: Path, kind: AcceleratorKind) -> None:
    """Makes sure that machines restored from a saved one, of the counting guest, go on where it stood."""
    with quick.factory(disk, quick.measured(kind)) as factory:
        memory, state = factory.scratch_path("memory"), factory.scratch_path("state")
        with factory.create(MachineSpec(name="saved", memory=with_memory(factory, memory))) as machine:
            answer(machine, b"x", "a")
            answer(machine, b"x", "b")
            machine.boot.save(state)
        for number in (1, 2):
            spec = MachineSpec(name=f"restored-{number}", state=InitialState.STARTED,
                               memory=with_memory(factory, memory, copied=True, state=state))  # fmt: skip
            with factory.create(spec) as restored:
                answer(restored, b"x", "c")
                answer(restored, b"x", "d")


@both
def test_a_power_cut_starts_the_machine_anew(tmp_path: Path, kind: AcceleratorKind) -> None:
    with quick.factory(counting_image(tmp_path / "disk.raw", UP), quick.measured(kind)) as factory, \
            factory.create(MachineSpec(name="cut")) as machine:  # fmt: skip
        answer(machine, b"x", "a")
        machine.power_cut()
        answer(machine, b"x", "a")
        assert len(machine.boots) == 2 and machine.boots[0].process.exited


@both
def test_a_reset_that_was_requested_ends_in_a_cold_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: AcceleratorKind
) -> None:
    def reset(machine: Any, command: str) -> None:
        machine.boot.transcript.send(b"r")

    monkeypatch.setattr(Machine, "run", reset)
    with quick.factory(counting_image(tmp_path / "disk.raw", UP), quick.measured(kind)) as factory, \
            factory.create(MachineSpec(name="reset")) as machine:  # fmt: skip
        answer(machine, b"x", "a")
        machine.reboot()
        answer(machine, b"x", "a")
        assert len(machine.boots) == 2


@both
def test_a_reset_by_the_guest_alone_is_its_end(tmp_path: Path, kind: AcceleratorKind) -> None:
    with quick.factory(counting_image(tmp_path / "disk.raw", UP), quick.measured(kind)) as factory, \
            factory.create(MachineSpec(name="gone")) as machine:  # fmt: skip
        machine.boot.transcript.send(b"r")
        with pytest.raises(GuestCrashed, match="guest-reset"):
            machine.boot.transcript.wait_for("never", Deadline.after(20))


@both
def test_snapshots_of_another_accelerator_or_processor_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: AcceleratorKind
) -> None:
    with quick.factory(raw_image(tmp_path / "disk.raw", UP), quick.measured(kind)) as factory:
        here = snapshot_cache.key(factory)
        monkeypatch.setattr(snapshot_cache, "processor_name", lambda: "another")
        elsewhere = snapshot_cache.key(factory)
    assert here["accelerator"] == kind
    assert (here == elsewhere) == (kind is TCG)


@needs_kvm
@pytest.mark.parametrize(("model", "exact", "features"), [
    ("Icelake-Server-v6", True, True), ("host", False, False), ("host,arch-capabilities=off", False, False),
])  # fmt: skip
def test_a_machine_knows_which_processor_it_has(tmp_path: Path, model: str, exact: bool, features: bool) -> None:
    here = replace(quick.measured(KVM), cpu_model=model, speed=9000.0)
    with quick.factory(raw_image(tmp_path / "disk.raw", UP), here) as factory:
        fidelity = HardwareFidelity.of(factory.hardware())
    assert (fidelity.exact_model, fidelity.all_features, fidelity.hardware_speed) == (exact, features, True)
    assert processor.is_ice_lake(model) == features
