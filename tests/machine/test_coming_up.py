"""A machine that does not come up is told as what it is: what its screen shows, and soon if its guest stands still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.errors import BootFailed, MachineStarved, TestbedError
from lifsea_testbed.machine import coming_up
from lifsea_testbed.machine.boot import DiskActivity
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness
from tests.qemu.test_text_screen import dump, screen
from tests.support import quick
from tests.support.boot_sector import screen_image

STILL = "Booting from Hard Disk..."


class FakeBoot:
    """A guest that has read one sector and stands still, unless a field says otherwise."""

    def __init__(self, **fields: Any) -> None:
        self.liveness = Liveness()
        self.consoles = {"ttyS0": SimpleNamespace(is_empty=fields.get("is_empty", True))}
        self.monitor: Any = SimpleNamespace(execute=lambda *arguments, **options: dump(screen(self.row())))
        self.power_on = time.monotonic()
        self.transcript = SimpleNamespace(tail=lambda: "the console")
        self.row: Callable[[], str] = fields.get("row", lambda: STILL)
        self._activity = iter(fields.get("activity", []))
        self._last = DiskActivity(read=fields.get("read", 512), written=0)
        self._fault = fields.get("fault")

    @property
    def disk_activity(self) -> DiskActivity:
        """What it has read and written."""
        if isinstance(self._fault, TestbedError) and not isinstance(self._fault, MachineStarved):
            raise self._fault
        self._last = next(self._activity, self._last)
        return self._last

    def diagnose_silence(self, waited: float) -> MachineStarved | None:
        """Returns why it is the host's fault, if it is."""
        assert waited == coming_up.PATIENCE
        return self._fault if isinstance(self._fault, MachineStarved) else None


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coming_up, "PATIENCE", 0.3)
    monkeypatch.setattr(coming_up, "EVERY", 0.02)


def ended(boot: FakeBoot, *, heard: bool = False, within: float = 1.5) -> str:
    """Why the machine ended while it was waited for; nothing if it did not."""
    fake: Any = boot
    with coming_up.watch(fake, lambda: heard):
        return boot.liveness.reason().happened if boot.liveness.wait(Deadline.after(within)) else ""


@pytest.mark.usefixtures("quickly")
def test_a_guest_that_stands_still_is_told_with_what_its_screen_shows() -> None:
    assert ended(FakeBoot(), within=20.0) == (
        "the guest stands still: it read 512 bytes from its disk, and then nothing, and printed nothing, for 0 s; "
        f"on the screen: '{STILL}'")  # fmt: skip


@pytest.mark.usefixtures("quickly")
def test_a_firmware_that_never_reads_the_disk_is_told_later() -> None:
    assert "it read 0 bytes from its disk" in ended(FakeBoot(read=0), within=20.0)


def counting() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{number} s"


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("alive", [
    {"is_empty": False}, {"read": 9 << 20}, {"read": 0, "within": 0.8}, {"row": counting().__next__},
    {"activity": [DiskActivity(read=512 * number, written=0) for number in range(1, 999)]},
    {"activity": [DiskActivity(read=512, written=512 * number) for number in range(1, 999)]},
    {"fault": MachineStarved("the host is busy")}, {"fault": TestbedError("QEMU does not answer")},
], ids=["prints", "loads a kernel", "is in firmware", "draws", "reads", "writes", "starved", "no answer"])  # fmt: skip
def test_a_guest_that_does_anything_or_cannot_is_waited_for(alive: dict[str, Any]) -> None:
    within = alive.pop("within", 1.5)
    assert ended(FakeBoot(**alive), within=within) == ""


@pytest.mark.usefixtures("quickly")
def test_a_guest_that_was_heard_of_is_waited_for() -> None:
    assert ended(FakeBoot(), heard=True) == ""


@pytest.mark.usefixtures("quickly")
def test_nobody_looks_any_more_once_the_machine_is_up() -> None:
    boot: Any = FakeBoot()
    with coming_up.watch(boot, lambda: False):
        pass
    assert not boot.liveness.wait(Deadline.after(1.0))


def test_what_is_missing_is_told_with_the_screen() -> None:
    boot: Any = FakeBoot()
    error = coming_up.failed(boot, "no root shell", "a root shell by user-data")
    assert error.happened.endswith(f"s of power-on; on the screen: '{STILL}'")
    assert error.evidence == f"screen:\n{STILL}\nthe console"


@pytest.mark.boots
def test_a_boot_sector_that_hangs_is_told_by_its_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk whose boot code belongs to another firmware does; a tenth of the time is enough for it."""
    monkeypatch.setattr(coming_up, "PATIENCE", 3.0)
    monkeypatch.setattr(coming_up, "EVERY", 0.5)
    disk, started = screen_image(tmp_path / "disk.raw", "No operating system"), time.monotonic()
    with quick.factory(disk, quick.measured(AcceleratorKind.TCG)) as factory, \
            pytest.raises(BootFailed) as caught, factory.create(MachineSpec(name="still")):  # fmt: skip
        pass
    assert "the guest stands still" in caught.value.happened and "No operating system" in caught.value.happened
    assert caught.value.kept_image_down and "SeaBIOS" in caught.value.evidence
    assert time.monotonic() - started < 60
