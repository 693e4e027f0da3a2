"""A toy that swaps two slots, A and B: correctly, and with each of three classic mistakes; judged without a boot."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from lifsea_testbed.disk.ext4 import Ext4, is_ext4
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.partitions import partitions
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import DiskDamaged
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut.operation import BASE, CheckDepth, Length, OperationResult, PreparedDisk
from lifsea_testbed.powercut.verdicts import CrashVerdict
from lifsea_testbed.qemu.storage import Layers

#: The contents of slots: the first image, the running one, the next one. 64 KiB each: 16 pages that can be torn.
IMAGES = tuple(random.Random(number).randbytes(1 << 16) for number in range(3))
#: Where the toy lies in the guest, and on the root file system.
PLACE, ON_DISK = "/var/toy", "/ostree/deploy/lifsea/var/toy"
_CHOOSE = '[ "$(readlink current)" = a ] && next=b || next=a\n'
# A new file: ext4 writes a truncated one to the disk when it is closed (auto_da_alloc).
_WRITE = "rm -f $next/image && cp ../next $next/image\n"
_FILE, _DIRECTORY, _END = "sync $next/image\n", "sync $next\n", "sync .\n"
_SWAP = "ln -sfn $next current.new && mv -T current.new current\n"
SWAPS = {
    "correct": _CHOOSE + _WRITE + _FILE + _DIRECTORY + _SWAP + _END,
    "file not synced": _CHOOSE + _WRITE + _DIRECTORY + _SWAP + _END,
    "directory not synced": _CHOOSE + _WRITE + _FILE + _DIRECTORY + _SWAP,
    "renamed before data": _CHOOSE + _SWAP + _END + _WRITE + _FILE + _DIRECTORY,
}
#: The kernel commits its journal every five seconds (ext4(5), commit=); until then a swap is left alone.
_COMMIT = 7.0


@dataclass(frozen=True, kw_only=True)
class Span:
    """The length of the log at a swap's start, at its success, and when all had been written (bytes)."""

    started: int
    announced: int
    ended: int


@dataclass
class Toy:
    """All swaps, one after the other in one recording; `spans` locates each of them."""

    name: str = "toy"
    depth: CheckDepth = CheckDepth.BOOT
    spans: dict[str, Span] = field(default_factory=dict)

    def prepare(self, factory: MachineFactory, directory: Path) -> PreparedDisk:
        """Fills the slots of each swap."""
        instance = Instance(type=factory.instance_type)
        spec = MachineSpec(name="toy-prepare", state=InitialState.OFF, instance=instance,
                           layers=Layers(overlay=directory / BASE))  # fmt: skip
        with factory.create(spec) as machine:
            machine.power_on()
            machine.wait_until_ready()
            machine.run(f"mkdir {PLACE}")
            for name, image in zip(("first", "running", "next"), IMAGES, strict=True):
                machine.guest.files.put(image, f"{PLACE}/{name}")
            for number in range(len(SWAPS)):
                machine.run(f"mkdir -p {PLACE}/{number}/a {PLACE}/{number}/b; cd {PLACE}/{number}; "
                            "cp ../running a/image; cp ../first b/image; ln -s a current")  # fmt: skip
            machine.power_off()
        return PreparedDisk(instance=instance, layers=(directory / BASE,))

    def run(self, machine: Machine, prepared: PreparedDisk, length: Length) -> OperationResult:
        """Swaps."""
        machine.power_on()
        machine.wait_until_ready()
        for number, (name, swap) in enumerate(SWAPS.items()):
            machine.run("sync")
            started = length()
            machine.run(f"cd {PLACE}/{number}\nset -e\n{swap}")
            announced = length()
            machine.run(f"sleep {_COMMIT}; sync")
            self.spans[name] = Span(started=started, announced=announced, ended=length())
        return OperationResult(old="", new="", started=0, announced=None)


def judge(disk: ByteSource, number: int) -> CrashVerdict:
    """Returns which image the swap of that number left, from the disk alone."""
    try:
        return _judge(Tree(root_of(_largest(disk))), f"{ON_DISK}/{number}")
    except DiskDamaged:
        return CrashVerdict.BROKEN


def _largest(disk: ByteSource) -> Ext4:
    found = [partition.content for partition in partitions(disk) if is_ext4(partition.content)]
    return Ext4(max(found, key=lambda content: content.size))


def _judge(tree: Tree, place: str) -> CrashVerdict:
    _, running, following = IMAGES
    held = tree.read(f"{place}/current/image") or b""
    return {running: CrashVerdict.OLD, following: CrashVerdict.NEW}.get(held, CrashVerdict.BROKEN)
