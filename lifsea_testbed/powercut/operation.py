"""The operations that a power cut interrupts: pull, deployment, rollback, staged deployment, first and second boot."""

from __future__ import annotations

import enum
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol

from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import UpgradesSection
from lifsea_testbed.qemu.storage import Layers, beside
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC
from lifsea_testbed.upgrade.offer import Offer, make_offers, offer_from_disk
from lifsea_testbed.upgrade.repository import Repository
from lifsea_testbed.upgrade.tools import OstreeTool, RpmOstreeTool, UpgradeTool, upgrade_tool

BASE = "base.qcow2"
#: The directory of the repository with the offer, beside the recording.
OFFER = "offer"
#: Returns the length of the log (bytes).
Length = Callable[[], int]


class CheckDepth(enum.StrEnum):
    """How deeply a machine that booted is checked; each depth includes those before it."""

    BOOT = "boot"
    FSCK = "fsck"
    NEXT = "next"

    def at_least(self, other: CheckDepth) -> CheckDepth:
        """Returns the deeper of the two."""
        return max(self, other, key=list(CheckDepth).index)


@dataclass(frozen=True, kw_only=True)
class PreparedDisk:
    """The machine to record, off: its identity, and the layers of its disk above the image, the lowest first.

    `old` and `new` are the images that may run after a cut, where they are known, as the upgrade tool names them;
    `offer` is the image that it is upgraded to, by the tool of `upgrades`.
    """

    instance: Instance
    layers: tuple[Path, ...]
    old: str = ""
    new: str = ""
    offer: Offer | None = None
    upgrades: UpgradesSection = field(default_factory=UpgradesSection)

    @property
    def variables(self) -> Path | None:
        """The UEFI variables that it begins with, beside its lowest layer; None with a BIOS."""
        return variables_of(self.layers)


@dataclass(frozen=True, kw_only=True)
class OperationResult:
    """A finished operation: the commits before and after, and the log's length (bytes) at its start and at its success.

    `announced` is None for an operation that never reports success.
    """

    old: str
    new: str
    started: int
    announced: int | None


class Operation(Protocol):
    """An operation of a machine on its own disk, from a clean start until it reports success.

    `name` is the value of `--cut`; `depth` is the least check that can notice the damage a cut in it does.
    """

    name: str
    depth: CheckDepth

    def prepare(self, factory: MachineFactory, directory: Path) -> PreparedDisk:
        """Brings a machine to the start of the operation and powers it off; its layers lie in `directory`."""
        ...

    def run(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Powers the machine on and runs the operation; the machine may be off afterwards."""
        ...


class UpgradeOperation:
    """The deployment of the next image, pulled before; without one, of a commit made up on the image's own.

    By the profile's tool: one that pulls and deploys in one step does both.
    """

    name = "upgrade"
    depth = CheckDepth.BOOT

    def prepare(self, factory: MachineFactory, directory: Path) -> PreparedDisk:
        """Offers the next image, pulls it, and powers off, so that it is on disk."""
        instance = Instance(type=factory.instance_type, firmware=factory.context.firmware)
        with factory.create(_off(directory, instance)) as machine:
            tool = upgrade_tool(machine, factory.profile.upgrades)
            offer = _boot_with_offer(factory, machine, directory / OFFER)
            old = tool.running()
            self._advance(machine, tool, offer)
            machine.power_off()
        return self._endpoints(PreparedDisk(instance=instance, layers=(directory / BASE,), old=old,
                                            new=tool.name_of(offer), offer=offer,
                                            upgrades=factory.profile.upgrades))  # fmt: skip

    def run(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Deploys."""
        _boot_synced(machine)
        started = length()
        _deploy(machine, upgrade_tool(machine, prepared.upgrades), prepared)
        return OperationResult(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _advance(self, machine: Machine, tool: UpgradeTool, offer: Offer) -> None:
        """Brings the machine to the start of the operation; a tool that does all in one step starts from nothing."""
        if isinstance(tool, OstreeTool):
            tool.fetch(offer)

    def _endpoints(self, prepared: PreparedDisk) -> PreparedDisk:
        """Returns the disk with the right `old` and `new` for this operation."""
        return prepared


class PullOperation(UpgradeOperation):
    """The pull of the next image into the machine's repository, from which a later deployment takes over any damage.

    A boot does not show whether the pull is whole: success is never announced, and each state is upgraded.
    """

    name = "pull"
    depth = CheckDepth.NEXT

    def run(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Pulls."""
        _boot_synced(machine)
        started = length()
        if prepared.offer:
            OstreeTool(machine).fetch(prepared.offer)
        return OperationResult(old=prepared.old, new=prepared.new, started=started, announced=None)

    def _advance(self, machine: Machine, tool: UpgradeTool, offer: Offer) -> None:
        """Changes nothing: the offer is not pulled yet."""
        _require_ostree(tool, self.name)


class RollbackOperation(UpgradeOperation):
    """The rollback from the next image."""

    name = "rollback"

    def run(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Makes the previous deployment the first."""
        _boot_synced(machine)
        started = length()
        upgrade_tool(machine, prepared.upgrades).roll_back()
        return OperationResult(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _advance(self, machine: Machine, tool: UpgradeTool, offer: Offer) -> None:
        """Boots the next image."""
        tool.apply(offer)
        machine.reboot()
        machine.wait_until_ready()

    def _endpoints(self, prepared: PreparedDisk) -> PreparedDisk:
        return replace(prepared, old=prepared.new, new=prepared.old)


class StagedOperation(UpgradeOperation):
    """The shutdown that finalises a staged deployment; success is announced by the machine being off."""

    name = "staged"

    def run(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Stages, and powers off."""
        _boot_synced(machine)
        machine.guest.deployments.stage(machine.guest.deployments.booted().os, prepared.new)
        started = length()
        machine.power_off()
        return OperationResult(old=prepared.old, new=prepared.new, started=started, announced=length())

    def _advance(self, machine: Machine, tool: UpgradeTool, offer: Offer) -> None:
        _require_ostree(tool, self.name)
        super()._advance(machine, tool, offer)


class FirstBootOperation:
    """The first boot of an image: it grows partition and file system, makes the machine-id, runs user-data."""

    name = "first-boot"
    depth = CheckDepth.BOOT

    def prepare(self, factory: MachineFactory, directory: Path) -> PreparedDisk:
        """Makes an empty overlay above the image."""
        instance = Instance(type=factory.instance_type, firmware=factory.context.firmware)
        with factory.create(_off(directory, instance)):
            return PreparedDisk(instance=instance, layers=(directory / BASE,))

    def run(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Boots."""
        machine.power_on()
        machine.wait_until_ready()
        commit = machine.guest.deployments.booted().commit
        return OperationResult(old=commit, new=commit, started=0, announced=None)


class SecondBootOperation:
    """The boot after a cut: its repairs must survive a cut, too.

    `first` is the machine as the first cut left it, the cut disk its topmost layer; `announced` is whether the first
    operation had reported success by then.
    """

    _NAME: ClassVar = "second-boot"
    depth = CheckDepth.BOOT

    def __init__(self, first: PreparedDisk, *, announced: bool) -> None:
        self.name = self._NAME
        self._first, self._announced = first, announced

    def prepare(self, factory: MachineFactory, directory: Path) -> PreparedDisk:
        """Links the layers and the offer into the recording's directory."""
        layers = tuple(directory / path.name for path in self._first.layers)
        stores = [self._first.variables] if self._first.variables else []
        for path in (*self._first.layers, *stores):
            (directory / path.name).unlink(missing_ok=True)
            os.link(path, directory / path.name)
        if self._first.offer:
            shutil.copytree(self._first.layers[0].with_name(OFFER), directory / OFFER, copy_function=os.link,
                            dirs_exist_ok=True)  # fmt: skip
        return replace(self._first, layers=layers)

    def run(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Boots."""
        machine.power_on()
        machine.wait_until_ready()
        return OperationResult(old=prepared.old, new=prepared.new, started=0, announced=0 if self._announced else None)


#: The operations, by the value of `--cut`.
OPERATIONS: dict[str, Operation] = {
    operation.name: operation for operation in
    (PullOperation(), UpgradeOperation(), RollbackOperation(), StagedOperation(), FirstBootOperation())
}


def variables_of(layers: Sequence[Path]) -> Path | None:
    """Returns the UEFI variables of the machine that wrote the lowest of those layers; None with a BIOS."""
    store = beside(layers[0])
    return store if store.is_file() else None


def _off(directory: Path, instance: Instance) -> MachineSpec:
    return MachineSpec(name="powercut-prepare", state=InitialState.OFF, instance=instance,
                       layers=Layers(overlay=directory / BASE))  # fmt: skip


def _boot_with_offer(factory: MachineFactory, machine: Machine, directory: Path) -> Offer:
    """Powers on, writes a file of the machine's own to /etc, and offers the next image; returns the offer."""
    machine.power_on()
    factory.identify(machine)
    machine.wait_until_ready()
    machine.guest.files.write(KEPT_IN_ETC, KEPT_IN_ETC)
    shutil.rmtree(directory, ignore_errors=True)
    url = machine.network.serve_mirror(Repository(directory))
    if factory.next_image:
        return offer_from_disk(machine, directory, url, machine.attach_disk(factory.next_image))
    return make_offers(machine, directory, url, 1)[0]


def _deploy(machine: Machine, tool: UpgradeTool, prepared: PreparedDisk) -> None:
    """Upgrades; what rpm-ostree announces takes effect when the machine shuts down, and not before."""
    if isinstance(tool, OstreeTool):
        tool.deploy(prepared.new)
    elif prepared.offer:
        tool.apply(prepared.offer)
    if isinstance(tool, RpmOstreeTool):
        machine.power_off()


def _require_ostree(tool: UpgradeTool, operation: str) -> None:
    if not isinstance(tool, OstreeTool):
        raise NotJudged(f"--cut {operation} is a step of ostree's own, and the profile upgrades by another tool",
                        Reason.PROFILE)


def _boot_synced(machine: Machine) -> None:
    """Powers on, and syncs what the boot wrote."""
    machine.power_on()
    machine.wait_until_ready()
    machine.run("sync")
