"""`lifsea-testbed instance`: what a real instance shows of its hardware, against what the test bed takes it for."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.ecs import guest_hardware, instance_types
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.instance_types import InstanceType
from lifsea_testbed.errors import CallerError, Explained, NotJudged
from lifsea_testbed.guest import instance_record
from lifsea_testbed.guest.hardware import VisibleHardware
from lifsea_testbed.support.sanitize import printable

#: What differs is a fault of the test bed's model, as where a test of the hardware fails: the gate's status for broken.
_DIFFERS = 6
#: Firmware keeps less memory than this for its tables (MiB); two readings of a clock differ by less than this (s).
_FIRMWARE, _READING = 3, 5
#: The strings of the firmware that are each instance's own.
_OWN = frozenset({"product_serial", "product_uuid"})
#: Characters of a fact that are shown.
_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class InstanceFact:
    """One thing that an instance shows: what the model has, empty where that is not known, and what was found.

    Where it was not `readable`, that is why.
    """

    what: str
    model: str
    found: str
    readable: bool = True

    @property
    def differs(self) -> bool:
        """Whether the model has another value than was found."""
        return self.readable and self.model not in ("", self.found)

    def __str__(self) -> str:
        """The fact on one line."""
        found = f"{self.what}: {self.found[:_LONGEST]}"
        if not self.readable:
            return f"not read  {found}"
        if not self.model:
            return f"new       {found}"
        return f"differs   {found}; the test bed has {self.model}" if self.differs else f"the same  {found}"


def print_script(options: argparse.Namespace) -> None:
    """Prints the script that is to be run on the instance."""
    print(instance_record.script(), end="")


def compare(options: argparse.Namespace) -> int:
    """Prints how the recorded instance differs from the model of its type, and returns 0 only if it does not."""
    sold = instance_types.find(options.instance_type)
    facts = list(compared(sold, VisibleHardware(instance_record.parse(_record(options.record)))))
    for fact in facts:
        print(fact)
    return _DIFFERS if any(fact.differs for fact in facts) else 0


def compared(sold: InstanceType, seen: VisibleHardware) -> Iterator[InstanceFact]:
    """Yields each fact of an instance of that type."""
    has = guest_hardware.ICE_LAKE_FEATURES | {"hypervisor"}
    lacks = guest_hardware.HIDDEN_FEATURES | guest_hardware.DISABLED_FEATURES
    yield _fact("processor", guest_hardware.PROCESSOR, seen.processor)
    yield _fact("processors", sold.cpus, seen.processors)
    yield _fact("their arrangement", sold.topology, seen.topology)
    yield _fact("nodes of memory", 1, seen.memory_nodes)
    yield _fact("MiB of memory", sold.memory, lambda: _rounded(seen.memory(), sold.memory, _FIRMWARE))
    yield _fact("features of an Ice Lake", sorted(has), lambda: sorted(has & seen.features()))
    yield _fact("features that are hidden", sorted(lacks), lambda: sorted(lacks - seen.features()))
    yield from _table("firmware's", _firmware(sold), seen.dmi)
    yield from _devices(sold, seen)
    yield _fact("ttyS0", guest_hardware.CONSOLE, seen.console)
    yield _fact("ports of the virtio console", [guest_hardware.ASSISTANT_PORT], seen.virtio_ports)
    yield _fact("seconds that the hardware clock is ahead of UTC", 0,
                lambda: _rounded(seen.clock_offset(), 0, _READING))  # fmt: skip
    for what, read in _UNKNOWN.items():
        yield _fact(what, "", functools.partial(read, seen))


def _firmware(sold: InstanceType) -> dict[str, str]:
    return {name: text for name, text in guest_hardware.dmi(Instance(type=sold)).items() if name not in _OWN}


def _devices(sold: InstanceType, seen: VisibleHardware) -> Iterator[InstanceFact]:
    """The devices; an instance with one in the slot of the data disk is taken for one with a data disk."""
    with contextlib.suppress(Explained, NotJudged):
        instance = Instance(type=sold, data_disk=int(guest_hardware.DATA_SLOT in seen.pci_devices()))
        card = (guest_hardware.CARD_SLOT, sold.queues, guest_hardware.MTU)
        yield from _table("PCI device", guest_hardware.pci(instance), seen.pci_devices, rest=True)
        yield from _table("virtio device", guest_hardware.virtio(instance), seen.virtio_devices, rest=True)
        yield _fact("network cards (slot, queues, MTU)", [card],
                    lambda: [(found.slot, found.queues, found.mtu) for found in seen.network_cards()])  # fmt: skip


def _table(what: str, model: Mapping[str, object], read: Callable[[], Mapping[str, object]], *,
           rest: bool = False) -> Iterator[InstanceFact]:  # fmt: skip
    """A fact for each name that the model has, and for those that only the instance has as well if `rest` is set."""
    try:
        found = read()
    except (Explained, NotJudged) as error:
        yield InstanceFact(what=what, model="", found=printable(str(error)), readable=False)
        return
    for name in sorted(model.keys() | (found.keys() if rest else set())):
        yield _fact(f"{what} {name}", model.get(name, "none"), functools.partial(found.get, name, "none"))


def _fact(what: str, model: object, read: Callable[[], object]) -> InstanceFact:
    try:
        return InstanceFact(what=what, model=str(model), found=printable(str(read())) or "none")
    except (Explained, NotJudged) as error:
        return InstanceFact(what=what, model=str(model), found=printable(str(error)), readable=False)


def _rounded(found: int, model: int, nearly: int) -> int:
    """The model's number, if the one that was found is next to it."""
    return model if abs(found - model) < nearly else found


def _record(path: Path | None) -> str:
    """The text of the record, from standard input without a path.

    Raises:
        CallerError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") if path else os.fdopen(os.dup(sys.stdin.fileno()), "rb") as file:
            data = file.read(instance_record.LARGEST + 1)
    except OSError as error:
        raise CallerError(f"{path}: {error.strerror}", hint="give the file with the script's output") from None
    if len(data) > instance_record.LARGEST:
        raise CallerError(f"{path}: more than {instance_record.LARGEST >> 20} MiB is no record of an instance",
                          hint="give the file with the script's output")  # fmt: skip
    return data.decode("utf-8", "replace")


#: What no source tells of an ecs.g7.
_UNKNOWN: dict[str, Callable[[VisibleHardware], object]] = {
    "source of time": VisibleHardware.clock_source,
    "version of the trusted platform module": VisibleHardware.tpm,
    "features of virtio devices": lambda seen: {slot: sorted(bits) for slot, bits in seen.virtio_features().items()},
}
