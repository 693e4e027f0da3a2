"""A machine that boots by UEFI: its variables are its own, and go where it goes; the firmware's code is everybody's."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.boottime import observe
from lifsea_testbed.boottime.marks import BootMark
from lifsea_testbed.errors import GuestCrashed, WaitTimedOut
from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.storage import Layers
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.firmware import Firmware
from tests.machine.test_accelerators import answer, with_memory
from tests.support import efi, quick
from tests.support.boot_sector import raw_image
from tests.support.efi import efi_image

pytestmark = pytest.mark.boots


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[MachineFactory]:
    """A factory of machines that count their boots in a variable of UEFI."""
    with quick.factory(efi_image(tmp_path / "disk.raw"), quick.measured(AcceleratorKind.TCG),
                       firmware=Firmware.UEFI) as made:  # fmt: skip
        yield made


def assert_counted(machine: Machine, number: int) -> None:
    """The machine printed that number in its current boot."""
    assert machine.boot.transcript.wait_for(f"boot {number}", Deadline.after(20)), machine.boot.transcript.tail()


def count_once_more(machine: Machine, number: int) -> None:
    machine.boot.transcript.send(b"w")
    assert_counted(machine, number)


def test_variables_are_kept_over_boots_and_are_each_machines_own(
    factory: MachineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reset(machine: Machine, command: str) -> None:
        machine.boot.transcript.send(b"r")

    monkeypatch.setattr(Machine, "run", reset)
    assert factory.context.firmware_files is not None
    template = factory.context.firmware_files.variables.read_bytes()
    with factory.create(MachineSpec(name="first")) as machine:
        assert_counted(machine, 1)
        answer(machine, b"x", "a")
        machine.reboot()
        assert_counted(machine, 2)
        machine.power_cut()
        assert_counted(machine, 3)
        with factory.create(MachineSpec(name="second")) as other:
            assert_counted(other, 1)
    assert factory.context.firmware_files.variables.read_bytes() == template


def test_a_boot_that_is_begun_again_finds_the_variables_as_they_were(factory: MachineFactory) -> None:
    with factory.create(MachineSpec(name="starved")) as machine:
        assert_counted(machine, 1)
        machine.power_cut()
        assert_counted(machine, 2)
        assert machine.boot.disk_is_untouched
        machine.boot.close()
        machine.boot.disks.put_back()
        machine.power_on()
        assert_counted(machine, 2)


def test_a_saved_machine_goes_on_with_its_variables(factory: MachineFactory) -> None:
    memory, state, kept = (factory.scratch_path(name) for name in ("memory", "state", "variables"))
    with factory.create(MachineSpec(name="saved", memory=with_memory(factory, memory))) as machine:
        count_once_more(machine, 2)
        answer(machine, b"x", "a")
        machine.boot.save(state)
        machine.boot.close()
        assert machine.boot.disks.variables is not None
        shutil.copy(machine.boot.disks.variables.path, kept)
    memory.chmod(0o444)  # each machine has a user of its own
    before = kept.read_bytes()
    for number in (1, 2):
        spec = MachineSpec(name=f"restored-{number}", state=InitialState.STARTED, layers=Layers(variables=kept),
                           memory=with_memory(factory, memory, copied=True, state=state))  # fmt: skip
        with factory.create(spec) as restored:
            answer(restored, b"x", "b")
            count_once_more(restored, 3)
            if number == 1:
                restored.power_cut()
                assert_counted(restored, 4)
    assert kept.read_bytes() == before


def test_the_code_is_read_only_to_qemu(factory: MachineFactory) -> None:
    assert factory.context.firmware_files is not None
    code = factory.context.firmware_files.code.resolve()
    with factory.create(MachineSpec(name="held", state=InitialState.STARTED)) as machine:
        process = Path(f"/proc/{machine.boot.process.pid}")
        held = [link.name for link in (process / "fd").iterdir() if _target(link) == str(code)]
        flags = [(process / "fdinfo" / number).read_text().split("flags:")[1].split()[0] for number in held]
    assert held and all(int(each, 8) & os.O_ACCMODE == os.O_RDONLY for each in flags)


def test_the_firmware_says_when_it_hands_over(factory: MachineFactory) -> None:
    (seen,) = observe.boots(factory, "marked", None)
    assert seen.marks[BootMark.FIRST_BYTE] <= seen.marks[BootMark.BOOT_LOADER] <= seen.marks[BootMark.USER_DATA]
    assert [phase.name for phase in seen.phases] == ["firmware", "user-space"]


def test_a_disk_for_a_bios_does_not_boot_by_uefi_nor_the_other_way_round(tmp_path: Path) -> None:
    for disk, firmware, end in ((raw_image(tmp_path / "bios.raw", "up and running\n"), Firmware.UEFI, GuestCrashed),
                                (efi_image(tmp_path / "uefi.raw"), Firmware.BIOS, WaitTimedOut)):
        with quick.factory(disk, quick.measured(AcceleratorKind.TCG), firmware=firmware) as factory, \
                factory.create(MachineSpec(name="other", state=InitialState.STARTED)) as machine, \
                pytest.raises(end):  # fmt: skip
            machine.boot.transcript.wait_for("up and running", Deadline.after(60 if firmware.is_uefi else 10))


@contextlib.contextmanager
def secure(directory: Path, loader: bytes, variables: Path | None = None) -> Iterator[Machine]:
    """A started machine with Secure Boot, by Microsoft's keys or those variables, and that boot loader on its disk."""
    directory.mkdir()
    with quick.factory(efi_image(directory / "disk.raw", loader), quick.measured(AcceleratorKind.TCG),
                       firmware=Firmware.UEFI_SECURE) as factory:  # fmt: skip
        spec = MachineSpec(name="secure", state=InitialState.STARTED, layers=Layers(variables=variables))
        with factory.create(spec) as machine:
            yield machine


def test_secure_boot_starts_what_is_signed_and_nothing_that_was_altered(tmp_path: Path) -> None:
    """The same program, signed: it starts, unless one bit of it is another, or the firmware has other keys."""
    sound = efi.signed(efi.program())
    altered = sound.replace(b"up and running", b"up and rtnning")
    assert sound != altered
    with secure(tmp_path / "sound", sound, efi.VARIABLES) as machine:
        assert machine.boot.transcript.wait_for("up and running", Deadline.after(60))
    for name, loader, variables in (("altered", altered, efi.VARIABLES), ("unsigned", efi.program(), efi.VARIABLES),
                                    ("other", sound, None)):  # fmt: skip
        with secure(tmp_path / name, loader, variables) as machine, pytest.raises(GuestCrashed) as caught:
            machine.boot.transcript.wait_for("up and r.nning", Deadline.after(60))
        assert "nothing to boot" in caught.value.happened and "Access Denied" in caught.value.evidence


def _target(link: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return str(link.readlink())
    return ""


# Without a boot


def test_snapshots_of_other_firmware_are_others(tmp_path: Path) -> None:
    keys: list[dict[str, str]] = []
    for firmware in (Firmware.BIOS, Firmware.UEFI):
        with quick.factory(raw_image(tmp_path / "disk.raw"), quick.measured(AcceleratorKind.TCG),
                           firmware=firmware) as factory:  # fmt: skip
            keys.append(snapshot_cache.key(factory))
    assert {name for name in keys[1] if keys[0].get(name) != keys[1][name]} == {
        "command", "firmware", "memory"}
