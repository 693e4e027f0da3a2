"""The copy of a running machine's disk: made while it stands still, read offline, once for each moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifsea_testbed.disk import image
from lifsea_testbed.errors import AnswersDiffer, HostError
from lifsea_testbed.guest.cross_checked import Answered, Road
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import AccessMethod
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.scenarios import cross_check
from lifsea_testbed.scenarios.cross_check import CrossCheck, DiskCopies
from tests.support import disks, quick
from tests.support.boot_sector import raw_image
from tests.support.fakes import FakeShell

#: A guest whose find names no python, and whose disk has one.
LIAR = {"find /": "755 /usr/bin/su\0"}
SYSTEM: dict[str, str | bytes] = {"etc/os-release": "ID=x\n", "usr/bin/python3*": "#!", "usr/bin/su*": "#!"}


class FakeMachine:
    """A machine with a real disk, whose guest lies."""

    def __init__(self, below: Path, overlay: Path) -> None:
        self.image = image.examine(below)
        self.disks = (overlay,)
        self.boots = [self]
        self.access_method: str = AccessMethod.USER_DATA
        self.seen: list[str] = []
        self.guest = Guest(FakeShell(LIAR), lambda: profiles.load("reference"))
        self.boot = SimpleNamespace(execute=self.seen.append, liveness=SimpleNamespace(ended=False))

    def run(self, command: str, *, check: bool = True, within: float = 0.0) -> None:
        self.seen.append(command)


class FakeFactory:
    """As much of a factory as copies need: a place for them."""

    def __init__(self, place: Path) -> None:
        self.place, self.count = place, 0

    def scratch_path(self, name: str) -> Path:
        self.count += 1
        return self.place / f"{self.count}-{name}"


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    below = disks.disk(tmp_path / "below.raw", root=disks.fill(tmp_path / "old", {"etc/os-release": "ID=x\n"}))
    above = disks.disk(tmp_path / "above.raw", root=disks.fill(tmp_path / "new", SYSTEM))
    return FakeMachine(below, disks.overlay_with(tmp_path / "overlay.qcow2", above, below))


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[DiskCopies]:
    (tmp_path / "scratch").mkdir()
    factory: Any = FakeFactory(tmp_path / "scratch")
    with DiskCopies(factory) as made:
        yield made
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_lying_guest_is_told_by_its_disk(machine: Any, copies: DiskCopies) -> None:
    check = CrossCheck(copies)
    assert check(machine).files.executables_named(["su"]) == ["/usr/bin/su"]
    with pytest.raises(AnswersDiffer, match=r"the disk alone has \[/usr/bin/python3\]"):
        check(machine).files.executables_named(["python3?"])
    assert check.roads == (Road.GUEST, Road.DISK) and check.why_one == ""


def test_the_machine_stands_still_once_for_a_moment(machine: Any, copies: DiskCopies) -> None:
    one = copies.of(machine)
    assert copies.of(machine) is one
    assert machine.seen == ["sync", "stop", "cont"]
    assert copies.of(machine, "late") is not one
    assert machine.seen == ["sync", "stop", "cont"] * 2


def test_a_copy_is_kept_as_long_as_its_machine_runs(machine: Any, copies: DiskCopies, tmp_path: Path) -> None:
    other = FakeMachine(machine.image.path, machine.disks[0])
    copies.of(machine)
    copies.of(machine, "late")
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    machine.boot.liveness.ended = True
    copies.of(cast(Machine, other))
    assert len(list((tmp_path / "scratch").iterdir())) == 1


def test_a_reboot_makes_the_copy_old(machine: Any, copies: DiskCopies) -> None:
    one = copies.of(machine)
    machine.boots.append(machine)
    assert copies.of(machine) is not one


def test_a_machine_that_is_off_stands_still_already(machine: Any, copies: DiskCopies) -> None:
    machine.boot.liveness.ended = True
    copies.of(machine)
    assert machine.seen == []


def test_the_machine_goes_on_when_the_copy_fails(machine: Any, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="could not be copied"):
        cross_check.copy_overlay(machine, tmp_path / "nowhere/copy")
    assert machine.seen == ["sync", "stop", "cont"]


def test_a_link_in_place_of_the_overlay_is_not_followed(machine: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of root alone")
    machine.disks[0].unlink()
    machine.disks[0].symlink_to(secret)
    with pytest.raises(HostError, match="could not be copied"):
        cross_check.copy_overlay(machine, tmp_path / "copy")
    assert not (tmp_path / "copy").exists() or b"root" not in (tmp_path / "copy").read_bytes()


def test_a_pipe_in_place_of_the_overlay_is_refused(machine: Any, tmp_path: Path) -> None:
    machine.disks[0].unlink()
    os.mkfifo(machine.disks[0])
    with pytest.raises(HostError, match="no regular file"):
        cross_check.copy_overlay(machine, tmp_path / "copy")


def test_a_copy_has_the_holes_and_bytes_of_its_file(machine: Any, tmp_path: Path) -> None:
    with machine.disks[0].open("wb") as file:
        for place in (0, 5 << 20, 40 << 20):
            file.seek(place)
            file.write(os.urandom(9000))
        file.truncate(64 << 20)
    cross_check.copy_overlay(machine, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == machine.disks[0].read_bytes()
    assert (tmp_path / "copy").stat().st_blocks <= machine.disks[0].stat().st_blocks + 64


def test_a_real_machine_stands_still_and_goes_on(tmp_path: Path) -> None:
    made = quick.factory(raw_image(tmp_path / "disk.raw", "up and running\n"), quick.measured(AcceleratorKind.TCG))
    with made as factory, factory.create(MachineSpec(name="machine")) as machine:
        with cross_check.standing_still(machine):
            assert machine.boot.execute("query-status")["status"] == "paused"
            cross_check.copy_file(machine.disks[-1], tmp_path / "copy.qcow2")
        assert machine.boot.execute("query-status")["status"] == "running"
        assert not machine.boot.liveness.ended
        header = (tmp_path / "copy.qcow2").read_bytes()[:4]
    assert header == b"QFI\xfb"


def test_a_machine_without_a_shell_is_read_from_its_disk_alone(machine: Any, copies: DiskCopies) -> None:
    check = CrossCheck(copies)
    tree = copies.of(machine)
    machine.access_method, machine.guest = AccessMethod.NONE, tree
    assert check(machine).files.executables_named(["python3?"]) == ["/usr/bin/python3"]
    assert check.roads == (Road.DISK,)


def test_one_answer_by_one_road_is_the_tests_road() -> None:
    nothing: Any = None
    check = CrossCheck(nothing)
    assert not check.roads
    check.answers += [Answered(question="a", roads=(Road.GUEST, Road.DISK)),
                      Answered(question="b", roads=(Road.GUEST,), why="XFS")]  # fmt: skip
    assert (check.roads, check.why_one) == ((Road.GUEST,), "XFS")
