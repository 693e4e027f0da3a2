"""What the power is cut in: a pull, a deployment, a rollback, the end of a staged one, a first boot, a second."""

from __future__ import annotations

import enum
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.qemu.storage import Layers
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC
from lifsea_testbed.upgrade.offer import Offer, from_disk, make_up
from lifsea_testbed.upgrade.repository import Repository
from lifsea_testbed.upgrade.tools import OstreeUpgrade

BASE = "base.qcow2"
#: Where the repository with what was on offer lies, beside the recording.
OFFER = "offer"
#: Returns how long the log is (bytes).
Length = Callable[[], int]


class Depth(enum.StrEnum):
    """How much is asked of a machine that came up; each asks what those before it ask."""

    BOOT = "boot"
    FSCK = "fsck"
    NEXT = "next"

    def at_least(self, other: Depth) -> Depth:
        """Returns the deeper of the two."""
        return max(self, other, key=list(Depth).index)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The machine that will be recorded, off: who it is, the layers of its disk above the image, the lowest first.

    `os`, `old` and `new` are the deployed system's name and the commits that may run after a cut, where that is known;
    `offer` is what it is upgraded to.
    """

    instance: Instance
    layers: tuple[Path, ...]
    os: str = ""
    old: str = ""
    new: str = ""
    offer: Offer | None = None


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
    """Something that a machine does to its own disk, from a clean start until it says that it is done.

    `depth` is the least that has to be asked of what comes up, for anything to be seen that it can break.
    """

    name: str
    depth: Depth

    def prepare(self, factory: MachineFactory, directory: Path) -> Prepared:
        """Brings a machine to where it can begin, and switches it off; its layers lie in that directory."""
        ...

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Powers the machine on and does it; the machine may be off afterwards."""
        ...


class Upgrade:
    """A deployment of the next image, pulled before; without one, of a commit that is made up from the image's own."""

    name = "upgrade"
    depth = Depth.BOOT

    def prepare(self, factory: MachineFactory, directory: Path) -> Prepared:
        """Has the next image on offer, pulled and safely on disk."""
        instance = Instance(type=factory.instance_type)
        spec = MachineSpec(name="powercut-prepare", state=InitialState.OFF, instance=instance,
                           layers=Layers(overlay=directory / BASE))  # fmt: skip
        with factory.create(spec) as machine:
            offer = _offered(factory, machine, directory / OFFER)
            before = machine.guest.deployments.booted()
            self._go_on(machine, before.os, offer)
            machine.power_off()
        return self._prepared(Prepared(instance=instance, layers=(directory / BASE,), os=before.os, old=before.commit,
                                       new=offer.commit, offer=offer))  # fmt: skip

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Deploys."""
        _start(machine)
        started = length()
        machine.guest.deployments.deploy(prepared.os, prepared.new)
        return Told(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _go_on(self, machine: Machine, os: str, offer: Offer) -> None:
        """Does what has to be done before."""
        OstreeUpgrade(machine).fetch(offer)

    def _prepared(self, prepared: Prepared) -> Prepared:
        """Tells from where to where it goes."""
        return prepared


class Pull(Upgrade):
    """The next image brought into the machine's repository: what is lost there, a later deployment would take over.

    Nothing that boots tells whether it came whole; so nothing is announced, and each state is upgraded.
    """

    name = "pull"
    depth = Depth.NEXT

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Pulls."""
        _start(machine)
        started = length()
        if prepared.offer:
            OstreeUpgrade(machine).fetch(prepared.offer)
        return Told(old=prepared.old, new=prepared.new, started=started, announced=None)

    def _go_on(self, machine: Machine, os: str, offer: Offer) -> None:
        """Leaves it at the offer."""


class Rollback(Upgrade):
    """The way back from the next image."""

    name = "rollback"

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Makes the previous deployment the first."""
        _start(machine)
        started = length()
        machine.guest.deployments.roll_back()
        return Told(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _go_on(self, machine: Machine, os: str, offer: Offer) -> None:
        """Has the next image run."""
        super()._go_on(machine, os, offer)
        machine.guest.deployments.deploy(os, offer.commit)
        machine.reboot()
        machine.wait_until_ready()

    def _prepared(self, prepared: Prepared) -> Prepared:
        return replace(prepared, old=prepared.new, new=prepared.old)


class StagedUpgrade(Upgrade):
    """The shutdown at which a staged deployment is finalised; only a machine that is off has announced anything."""

    name = "staged"

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Stages, and powers off."""
        _start(machine)
        machine.guest.deployments.stage(prepared.os, prepared.new)
        started = length()
        machine.power_off()
        return Told(old=prepared.old, new=prepared.new, started=started, announced=length())


class FirstBoot:
    """The first boot of an image: partition and file system grown, machine-id made, user-data run."""

    name = "first-boot"
    depth = Depth.BOOT

    def prepare(self, factory: MachineFactory, directory: Path) -> Prepared:
        """Leaves the disk as the image has it."""
        instance = Instance(type=factory.instance_type)
        spec = MachineSpec(name="powercut-prepare", state=InitialState.OFF, instance=instance,
                           layers=Layers(overlay=directory / BASE))  # fmt: skip
        with factory.create(spec):
            return Prepared(instance=instance, layers=(directory / BASE,))

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Boots."""
        machine.power_on()
        machine.wait_until_ready()
        commit = machine.guest.deployments.booted().commit
        return Told(old=commit, new=commit, started=0, announced=None)


class SecondBoot:
    """The boot after a cut: what it repairs and finishes, it must be able to do again.

    `first` is how the machine was left by the cut, its disk the topmost layer; `announced` says whether the upgrade had
    been said to be done by then.
    """

    _NAME: ClassVar = "second-boot"
    depth = Depth.BOOT

    def __init__(self, first: Prepared, *, announced: bool) -> None:
        self.name = self._NAME
        self._first, self._announced = first, announced

    def prepare(self, factory: MachineFactory, directory: Path) -> Prepared:
        """Links the layers, and what was on offer, to where they stay with the recording."""
        layers = tuple(directory / path.name for path in self._first.layers)
        for path, link in zip(self._first.layers, layers, strict=True):
            link.unlink(missing_ok=True)
            os.link(path, link)
        if self._first.offer:
            shutil.copytree(self._first.layers[0].with_name(OFFER), directory / OFFER, copy_function=os.link,
                            dirs_exist_ok=True)  # fmt: skip
        return replace(self._first, layers=layers)

    def act(self, machine: Machine, prepared: Prepared, length: Length) -> Told:
        """Boots."""
        machine.power_on()
        machine.wait_until_ready()
        return Told(old=prepared.old, new=prepared.new, started=0, announced=0 if self._announced else None)


#: What can be cut by name.
SUBJECTS: dict[str, Subject] = {
    subject.name: subject for subject in (Pull(), Upgrade(), Rollback(), StagedUpgrade(), FirstBoot())
}


def _offered(factory: MachineFactory, machine: Machine, directory: Path) -> Offer:
    """Powers on, and has the next image on offer to the machine, and something of the machine's own in /etc."""
    machine.power_on()
    factory.identify(machine)
    machine.wait_until_ready()
    machine.guest.files.write(KEPT_IN_ETC, KEPT_IN_ETC)
    shutil.rmtree(directory, ignore_errors=True)
    url = machine.network.serve_mirror(Repository(directory))
    if factory.next_image:
        return from_disk(machine, directory, url, machine.attach_disk(factory.next_image))
    return make_up(machine, directory, url, 1)[0]


def _start(machine: Machine) -> None:
    """Powers on and has what the boot wrote on disk."""
    machine.power_on()
    machine.wait_until_ready()
    machine.run("sync")
