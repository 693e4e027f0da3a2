"""What the power is cut in: an upgrade, a rollback, a staged upgrade's end at shutdown, a first boot, a second boot."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from lifsea_testbed.bench import Bench
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.guest import ostree
from lifsea_testbed.guest.ostree import Deployment
from lifsea_testbed.machine import Machine
from lifsea_testbed.qemu.overlay import Layers
from lifsea_testbed.scenario import IN_ETC
from lifsea_testbed.upgrade.offer import make_up
from lifsea_testbed.upgrade.repository import Repository
from lifsea_testbed.upgrade.way import OstreeUpgrade

BASE = "base.qcow2"
#: Returns how long the log is (bytes).
Length = Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The machine that will be recorded, off: who it is, the layers of its disk above the image, the lowest first.

    `os`, `old` and `new` are the deployed system's name and the commits that may run after a cut, where that is known.
    """

    instance: Instance
    layers: tuple[Path, ...]
    os: str = ""
    old: str = ""
    new: str = ""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was done: the commits before and after, and how long the log was when it began and was said to be done.

    Nothing is ever said to be done where `announced` is None.
    """

    old: str
    new: str
    started: int
    announced: int | None


class Subject(Protocol):
    """Something that a machine does to its own disk, from a clean start until it says that it is done."""

    name: str

    def prepare(self, bench: Bench, directory: Path) -> Prepared:
        """Brings a machine to where it can begin, and switches it off; its layers lie in that directory."""
        ...

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Powers the machine on and does it; the machine may be off afterwards."""
        ...


class Upgrade:
    """A deployment of the next image, pulled before; without one, of a commit that is made up from the image's own."""

    name = "upgrade"

    def prepare(self, bench: Bench, directory: Path) -> Prepared:
        """Has the next image pulled and safely on disk."""
        instance = Instance(type=bench.instance_type)
        with bench.off("powercut-prepare", layers=Layers(overlay=directory / BASE), instance=instance) as machine:
            before, commit = _pull(bench, machine)
            self._go_on(machine, before.os, commit)
            machine.power_off()
        return self._prepared(instance, directory / BASE, before, commit)

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Deploys."""
        _start(machine)
        started = length()
        ostree.deploy(machine, prepared.os, prepared.new)
        return Told(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _go_on(self, machine: Machine, os: str, commit: str) -> None:
        """Does what has to be done before, beyond pulling."""

    def _prepared(self, instance: Instance, base: Path, before: Deployment, commit: str) -> Prepared:
        return Prepared(instance=instance, layers=(base,), os=before.os, old=before.commit, new=commit)


class Rollback(Upgrade):
    """The way back from the next image."""

    name = "rollback"

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Makes the previous deployment the first."""
        _start(machine)
        started = length()
        ostree.roll_back(machine)
        return Told(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _go_on(self, machine: Machine, os: str, commit: str) -> None:
        """Has the next image run."""
        ostree.deploy(machine, os, commit)
        machine.reboot()
        machine.wait_until_ready()

    def _prepared(self, instance: Instance, base: Path, before: Deployment, commit: str) -> Prepared:
        return Prepared(instance=instance, layers=(base,), os=before.os, old=commit, new=before.commit)


class StagedUpgrade(Upgrade):
    """The shutdown at which a staged deployment is finalised; only a machine that is off has announced anything."""

    name = "staged"

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Stages, and powers off."""
        _start(machine)
        ostree.stage(machine, prepared.os, prepared.new)
        started = length()
        machine.power_off()
        return Told(old=prepared.old, new=prepared.new, started=started, announced=length())


class FirstBoot:
    """The first boot of an image: partition and file system grown, machine-id made, user-data run."""

    name = "first-boot"

    def prepare(self, bench: Bench, directory: Path) -> Prepared:
        """Leaves the disk as the image has it."""
        instance = Instance(type=bench.instance_type)
        with bench.off("powercut-prepare", layers=Layers(overlay=directory / BASE), instance=instance):
            return Prepared(instance=instance, layers=(directory / BASE,))

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Boots."""
        machine.power_on()
        machine.wait_until_ready()
        commit = machine.guest.booted_deployment().commit
        return Told(old=commit, new=commit, started=0, announced=None)


class SecondBoot:
    """The boot after a cut: what it repairs and finishes, it must be able to do again.

    `first` is how the machine was left by the cut, its disk the topmost layer; `announced` says whether the upgrade had
    been said to be done by then.
    """

    _NAME: ClassVar = "second-boot"

    def __init__(self, first: Prepared, *, announced: bool) -> None:
        self.name = self._NAME
        self._first, self._announced = first, announced

    def prepare(self, bench: Bench, directory: Path) -> Prepared:
        """Links the layers to where they stay with the recording."""
        layers = tuple(directory / path.name for path in self._first.layers)
        for path, link in zip(self._first.layers, layers, strict=True):
            link.unlink(missing_ok=True)
            os.link(path, link)
        first = self._first
        return Prepared(instance=first.instance, layers=layers, os=first.os, old=first.old, new=first.new)

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Boots."""
        machine.power_on()
        machine.wait_until_ready()
        return Told(old=prepared.old, new=prepared.new, started=0, announced=0 if self._announced else None)


#: What can be cut by name.
SUBJECTS: dict[str, Subject] = {
    subject.name: subject for subject in (Upgrade(), Rollback(), StagedUpgrade(), FirstBoot())
}


def _pull(bench: Bench, machine: Machine) -> tuple[Deployment, str]:
    """Has the next commit in the machine's repository, and something of the machine's own in /etc."""
    machine.power_on()
    bench.identify(machine)
    machine.wait_until_ready()
    machine.guest.write(IN_ETC, IN_ETC)
    commit = ostree.pull_from_disk(machine, machine.attach_disk(bench.next_image)) if bench.next_image \
        else _pull_made_up(machine)  # fmt: skip
    return machine.guest.booted_deployment(), commit


def _pull_made_up(machine: Machine) -> str:
    with tempfile.TemporaryDirectory() as directory:
        repository = Repository(Path(directory))
        (offer,) = make_up(machine, Path(directory), machine.serve(repository), 1)
        OstreeUpgrade(machine).fetch(offer)
    return offer.commit


def _start(machine: Machine) -> None:
    """Powers on and has what the boot wrote on disk."""
    machine.power_on()
    machine.wait_until_ready()
    machine.run("sync")
