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
from lifsea_testbed.guest import ostree
from lifsea_testbed.machine.factory import Bench
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.qemu.storage import Layers
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC
from lifsea_testbed.upgrade.offer import Offer, make_offers, offer_from_disk
from lifsea_testbed.upgrade.repository import Repository
from lifsea_testbed.upgrade.tools import OstreeTool

BASE = "base.qcow2"
#: Where the repository with what was on offer lies, beside the recording.
OFFER = "offer"
#: Returns how long the log is (bytes).
Length = Callable[[], int]


class CheckDepth(enum.StrEnum):
    """How much is asked of a machine that came up; each asks what those before it ask."""

    BOOT = "boot"
    FSCK = "fsck"
    NEXT = "next"

    def at_least(self, other: CheckDepth) -> CheckDepth:
        """Returns the deeper of the two."""
        return max(self, other, key=list(CheckDepth).index)


@dataclass(frozen=True, kw_only=True)
class PreparedDisk:
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
class OperationResult:
    """What was done: the commits before and after, and how long the log was when it began and was said to be done.

    Nothing is ever said to be done where `announced` is None.
    """

    old: str
    new: str
    started: int
    announced: int | None


class Operation(Protocol):
    """Something that a machine does to its own disk, from a clean start until it says that it is done.

    `depth` is the least that has to be asked of what comes up, for anything to be seen that it can break.
    """

    name: str
    depth: CheckDepth

    def prepare(self, bench: Bench, directory: Path) -> PreparedDisk:
        """Brings a machine to where it can begin, and switches it off; its layers lie in that directory."""
        ...

    def act(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Powers the machine on and does it; the machine may be off afterwards."""
        ...


class UpgradeOperation:
    """A deployment of the next image, pulled before; without one, of a commit that is made up from the image's own."""

    name = "upgrade"
    depth = CheckDepth.BOOT

    def prepare(self, bench: Bench, directory: Path) -> PreparedDisk:
        """Has the next image on offer, pulled and safely on disk."""
        instance = Instance(type=bench.instance_type)
        with bench.off("powercut-prepare", layers=Layers(overlay=directory / BASE), instance=instance) as machine:
            offer = _offered(bench, machine, directory / OFFER)
            before = machine.guest.booted_deployment()
            self._go_on(machine, before.os, offer)
            machine.power_off()
        return self._prepared(PreparedDisk(instance=instance, layers=(directory / BASE,), os=before.os,
                                           old=before.commit, new=offer.commit, offer=offer))  # fmt: skip

    def act(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Deploys."""
        _start(machine)
        started = length()
        ostree.deploy(machine, prepared.os, prepared.new)
        return OperationResult(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _go_on(self, machine: Machine, os: str, offer: Offer) -> None:
        """Does what has to be done before."""
        OstreeTool(machine).fetch(offer)

    def _prepared(self, prepared: PreparedDisk) -> PreparedDisk:
        """Tells from where to where it goes."""
        return prepared


class PullOperation(UpgradeOperation):
    """The next image brought into the machine's repository: what is lost there, a later deployment would take over.

    Nothing that boots tells whether it came whole; so nothing is announced, and each state is upgraded.
    """

    name = "pull"
    depth = CheckDepth.NEXT

    def act(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Pulls."""
        _start(machine)
        started = length()
        if prepared.offer:
            OstreeTool(machine).fetch(prepared.offer)
        return OperationResult(old=prepared.old, new=prepared.new, started=started, announced=None)

    def _go_on(self, machine: Machine, os: str, offer: Offer) -> None:
        """Leaves it at the offer."""


class RollbackOperation(UpgradeOperation):
    """The way back from the next image."""

    name = "rollback"

    def act(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Makes the previous deployment the first."""
        _start(machine)
        started = length()
        ostree.roll_back(machine)
        return OperationResult(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _go_on(self, machine: Machine, os: str, offer: Offer) -> None:
        """Has the next image run."""
        super()._go_on(machine, os, offer)
        ostree.deploy(machine, os, offer.commit)
        machine.reboot()
        machine.wait_until_ready()

    def _prepared(self, prepared: PreparedDisk) -> PreparedDisk:
        return replace(prepared, old=prepared.new, new=prepared.old)


class StagedOperation(UpgradeOperation):
    """The shutdown at which a staged deployment is finalised; only a machine that is off has announced anything."""

    name = "staged"

    def act(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Stages, and powers off."""
        _start(machine)
        ostree.stage(machine, prepared.os, prepared.new)
        started = length()
        machine.power_off()
        return OperationResult(old=prepared.old, new=prepared.new, started=started, announced=length())


class FirstBootOperation:
    """The first boot of an image: partition and file system grown, machine-id made, user-data run."""

    name = "first-boot"
    depth = CheckDepth.BOOT

    def prepare(self, bench: Bench, directory: Path) -> PreparedDisk:
        """Leaves the disk as the image has it."""
        instance = Instance(type=bench.instance_type)
        with bench.off("powercut-prepare", layers=Layers(overlay=directory / BASE), instance=instance):
            return PreparedDisk(instance=instance, layers=(directory / BASE,))

    def act(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Boots."""
        machine.power_on()
        machine.wait_until_ready()
        commit = machine.guest.booted_deployment().commit
        return OperationResult(old=commit, new=commit, started=0, announced=None)


class SecondBootOperation:
    """The boot after a cut: what it repairs and finishes, it must be able to do again.

    `first` is how the machine was left by the cut, its disk the topmost layer; `announced` says whether the upgrade had
    been said to be done by then.
    """

    _NAME: ClassVar = "second-boot"
    depth = CheckDepth.BOOT

    def __init__(self, first: PreparedDisk, *, announced: bool) -> None:
        self.name = self._NAME
        self._first, self._announced = first, announced

    def prepare(self, bench: Bench, directory: Path) -> PreparedDisk:
        """Links the layers, and what was on offer, to where they stay with the recording."""
        layers = tuple(directory / path.name for path in self._first.layers)
        for path, link in zip(self._first.layers, layers, strict=True):
            link.unlink(missing_ok=True)
            os.link(path, link)
        if self._first.offer:
            shutil.copytree(self._first.layers[0].with_name(OFFER), directory / OFFER, copy_function=os.link,
                            dirs_exist_ok=True)  # fmt: skip
        return replace(self._first, layers=layers)

    def act(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Boots."""
        machine.power_on()
        machine.wait_until_ready()
        return OperationResult(old=prepared.old, new=prepared.new, started=0, announced=0 if self._announced else None)


#: What can be cut by name.
OPERATIONS: dict[str, Operation] = {
    operation.name: operation for operation in
    (PullOperation(), UpgradeOperation(), RollbackOperation(), StagedOperation(), FirstBootOperation())
}


def _offered(bench: Bench, machine: Machine, directory: Path) -> Offer:
    """Powers on, and has the next image on offer to the machine, and something of the machine's own in /etc."""
    machine.power_on()
    bench.identify(machine)
    machine.wait_until_ready()
    machine.guest.write(KEPT_IN_ETC, KEPT_IN_ETC)
    shutil.rmtree(directory, ignore_errors=True)
    url = machine.serve(Repository(directory))
    if bench.next_image:
        return offer_from_disk(machine, directory, url, machine.attach_disk(bench.next_image))
    return make_offers(machine, directory, url, 1)[0]


def _start(machine: Machine) -> None:
    """Powers on and has what the boot wrote on disk."""
    machine.power_on()
    machine.wait_until_ready()
    machine.run("sync")
