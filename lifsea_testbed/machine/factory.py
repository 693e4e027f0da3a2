"""The bench: the image, the profile, the host and the hardware of one run, and the machines made from them."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib.resources
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.console import login
from lifsea_testbed.disk.image import Image
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.instance_types import InstanceType
from lifsea_testbed.errors import DiskDamaged, Explained, HostError, NotJudged
from lifsea_testbed.guest import offline
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.qemu import command_line
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.qemu.instruction_counter import Counter
from lifsea_testbed.qemu.storage import Layers, MemoryFile
from lifsea_testbed.support.deadline import TimeScale
from lifsea_testbed.support.host import OVERHEAD, available_memory, processor_name, processors, workers
from lifsea_testbed.support.private_dir import PrivateDirectory
from lifsea_testbed.support.sanitize import slug

#: The profile that an image is held to when none is named and its os-release fits none.
FALLBACK = "lifsea-3.3"
AUTO = "auto"
#: Below this (MiB) no profile's image boots to its kubelet.
_LEAST_MEMORY = 1024
#: What a machine's overlay may come to need (bytes): a deployed second image and its containers.
LEAST_DISK = 3 << 30
#: In their stead, the identity and the wires of a machine of which only the rest counts.
_ANYBODY = functools.partial(Instance, id="i-", uuid="", disk_serial="", mac="")
_NO_WIRES = command_line.Descriptors(monitor=0, console=0, assistant=0, channel=0, image=0, overlay=0)


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The memory (MiB) that a guest gets, and whether that is less than its instance type has."""

    memory: int
    wanted: int

    @property
    def is_short(self) -> bool:
        """Whether the host lacks what the instance type has."""
        return self.memory < self.wanted


def fit_memory(wanted: int, available: int) -> Fitting:
    """Returns the memory for a guest that wants so many MiB on a host that has so many left.

    Raises:
        HostError: less is left than any image needs.
    """
    memory = min(wanted, available - OVERHEAD)
    if memory < _LEAST_MEMORY:
        raise HostError(f"only {available} MiB of memory are free", expected=f"{_LEAST_MEMORY + OVERHEAD} MiB",
                        hint="stop other programs, or run on a larger host")  # fmt: skip
    return Fitting(memory=memory // 256 * 256 if memory < wanted else wanted, wanted=wanted)


def choose_place(places: Sequence[Path], *, machines: int, memory: int, fitting: Fitting) -> Path:
    """Returns the last of the places, which is in memory, if it has room for the overlays of so many machines.

    Their guests need their own part of the host's memory (MiB) beside it. Otherwise the first, on disk.
    """
    needed, left = machines * LEAST_DISK, memory - machines * (fitting.memory + OVERHEAD)
    fits = left >= needed >> 20 and shutil.disk_usage(places[-1]).free >= needed
    return places[-1] if fits else places[0]


def require_disk(directory: Path) -> None:
    """Makes sure that a machine's overlay finds room.

    Raises:
        HostError: it does not.
    """
    free = shutil.disk_usage(directory).free
    if free < LEAST_DISK:
        raise HostError(f"only {free >> 20} MiB are free in {directory}", expected=f"{LEAST_DISK >> 20} MiB",
                        hint="free disk space, or set TMPDIR to another disk")  # fmt: skip


class Bench:
    """Makes machines; all their files lie in one private directory that is removed at the end."""

    def __init__(self, *, image: Image, next_image: Image | None, profile: str, instance_type: InstanceType,
                 emulator: Emulator, accelerator: Accelerator, fitting: Fitting, records: Path,
                 dump_memory: bool = False, place: Path | None = None, data_disk: int | None = None) -> None:
        self.image = image
        self.next_image = next_image
        self.instance_type = instance_type
        self.emulator = emulator
        self.accelerator = accelerator
        self.fitting = fitting
        self.records = records
        self._dump_memory = dump_memory
        self._data_disk = data_disk
        self.time_scale = TimeScale(factor=accelerator.time_scale)
        self.profile = recognised(image) or profiles.load(FALLBACK) if profile == AUTO else profiles.load(profile)
        self.image_version = ""
        self.say: Callable[[str], None] = lambda line: None
        self._telling = threading.Lock()
        self._identified = profile != AUTO
        self._hopeless: Explained | None = None
        self._booted = False
        self._numbers = itertools.count(1)
        self._directory = PrivateDirectory(place)
        self._directory.path.chmod(0o711)

    def fit(self, memory: int) -> None:
        """Gives every later machine so much memory (MiB), as much as one that was saved elsewhere had.

        Raises:
            HostError: the host has less.
        """
        if memory + OVERHEAD > available_memory():
            raise HostError(f"the machine has {memory} MiB of memory", expected="as much is free on this host")
        self.fitting = Fitting(memory=memory, wanted=memory)

    @property
    def is_identified(self) -> bool:
        """Whether the profile is the one that the image will be held to."""
        return self._identified

    @property
    def profile_name(self) -> str:
        """The name of the profile that images are held to."""
        return self.profile.name

    @contextlib.contextmanager
    def machine(self, name: str, *, guest_memory: int | None = None, layers: Layers | None = None,
                memory: MemoryFile | None = None,
                prepare: Callable[[Machine], object] = lambda machine: None) -> Iterator[Machine]:
        """A new machine, powered on, its root shell open; gone when the context is left.

        `guest_memory` (MiB) is what it gets where several have to fit on the host; `prepare` is done to it while it is
        still off.

        Raises:
            Explained: the image did not come up. If it never did before, later calls raise the same at once.
        """
        if self._hopeless is not None:
            raise copy.copy(self._hopeless)
        with self._made(name, guest_memory=guest_memory, layers=layers, memory=memory) as machine:
            prepare(machine)
            self._power_on(machine)
            yield machine

    @contextlib.contextmanager
    def cold(self, name: str, counter: Counter | None,
             prepare: Callable[[Machine], object] = lambda machine: None) -> Iterator[Machine]:
        """A new machine like `machine`, on which the counter, if there is one, counts from the first instruction on.

        Raises:
            Explained: the image did not come up.
        """
        with self._made(name, counter=counter) as machine:
            prepare(machine)
            self._power_on(machine)
            yield machine

    @contextlib.contextmanager
    def started(self, name: str, *, user_data: bytes) -> Iterator[Machine]:
        """A new machine that was given that user-data, powered on and not waited for."""
        with self._made(name, user_data) as machine:
            machine.start()
            yield machine

    @contextlib.contextmanager
    def off(self, name: str, *, layers: Layers, instance: Instance,
            memory: MemoryFile | None = None) -> Iterator[Machine]:
        """A machine with that identity, these layers of its disk and that memory, off; the caller powers it on."""
        with self._made(name, layers=layers, instance=instance, memory=memory) as machine:
            yield machine

    @contextlib.contextmanager
    def _made(self, name: str, user_data: bytes | None = None, *, layers: Layers | None = None,
              instance: Instance | None = None, guest_memory: int | None = None,
              counter: Counter | None = None, memory: MemoryFile | None = None) -> Iterator[Machine]:
        with self._directories(name) as (directory, records):
            machine = Machine(
                hardware=self._hardware(instance, guest_memory), image=self.image, profile=lambda: self.profile,
                time_scale=self.time_scale, directory=directory, records=records,
                confinement=self.accelerator.confinement, user_data=user_data, layers=layers, memory=memory,
                dump_memory=self._dump_memory, counter=counter,
            )  # fmt: skip
            try:
                yield machine
            except Explained as error:
                error.records = records
                with contextlib.suppress(OSError):
                    machine.examine()
                raise
            finally:
                machine.close()

    def room(self, name: str) -> Path:
        """Returns a place in the private directory for a file of that name, which QEMU may open."""
        return self._directory.path / f"{next(self._numbers)}-{name}"

    def key(self) -> dict[str, str]:
        """Returns what two benches have in common whose machines are alike up to their identity."""
        command = command_line.command(self._hardware(_ANYBODY(type=self.instance_type), None), _NO_WIRES)
        told = login.user_data(command_line.CHANNEL_PORT, self.profile.access.line) + login.typed(self.profile.access)
        processor = "any" if self.accelerator.kind is AcceleratorKind.TCG else processor_name()
        return {"image": self.image.sha256, "profile": _digest(self.profile.model_dump_json().encode()),
                "command": _digest("\0".join(command).encode()), "user-data": _digest(told), "cloud": _cloud(),
                "processor": processor, "instance": self.instance_type.name, "memory": str(self.fitting.memory),
                "qemu": self.emulator.version, "accelerator": str(self.accelerator.kind)}  # fmt: skip

    def forgive(self) -> None:
        """Has an image that never came up be tried again."""
        self._hopeless = None

    def memory_for(self, machines: int) -> int:
        """Returns the memory (MiB) that each of so many machines gets: as much as one alone, or an equal part.

        Raises:
            HostError: the host has too little for so many.
        """
        return fit_memory(self.fitting.memory, available_memory() // machines).memory

    def at_once(self) -> int:
        """Returns how many of its machines the host bears at once; at least one."""
        return workers(processors=processors(), memory=available_memory(), guest_processors=self.instance_type.cpus,
                       guest_memory=self.fitting.memory)  # fmt: skip

    def close(self) -> None:
        """Removes everything that the machines left."""
        self._directory.close()

    @contextlib.contextmanager
    def _directories(self, name: str) -> Iterator[tuple[Path, Path]]:
        """A private directory that is removed at the end, and one for the records, which stays."""
        directory = self._directory.path / str(next(self._numbers))
        directory.mkdir(mode=0o700)
        records = self.records / slug(name) / os.environ.get("PYTEST_XDIST_WORKER", "")
        shutil.rmtree(records, ignore_errors=True)
        records.mkdir(parents=True)
        try:
            yield directory, records
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _power_on(self, machine: Machine) -> None:
        most = self.profile.boot.shell_within * self.time_scale.factor
        self._tell(f"powering on {machine.instance.id}: a shell may take {most:.0f} s")
        try:
            machine.power_on()
        except Explained as error:
            self._hopeless = None if self._booted else error
            raise
        self._booted = True
        self.identify(machine)
        self._tell(f"shell open after {machine.shell_after:.1f} s by {machine.road}, profile {self.profile.name}")

    def _tell(self, line: str) -> None:
        """Says a line; machines that are powered on side by side take turns."""
        with self._telling:
            self.say(line)

    def identify(self, machine: Machine) -> None:
        """Learns the image's version, and chooses the profile by it unless the user named one."""
        if not self._identified:
            release = machine.guest.os_release
            self.profile = profiles.matching(release) or self.profile
            self.image_version = release.get("VERSION_ID", "")
            self._identified = True
        elif not self.image_version:
            with contextlib.suppress(Explained, NotJudged):
                self.image_version = machine.guest.os_release.get("VERSION_ID", "")

    @property
    def data_disk(self) -> int:
        """The size of the data disk that machines have beside the system disk (GiB); 0 if they have none."""
        return self.profile.disks.data if self._data_disk is None else self._data_disk

    def _hardware(self, instance: Instance | None, guest_memory: int | None) -> command_line.HardwareSpec:
        return command_line.HardwareSpec(
            emulator=self.emulator,
            accelerator=self.accelerator.kind,
            host_is_ice_lake=host_is_ice_lake(),
            instance=instance or Instance(type=self.instance_type, data_disk=self.data_disk),
            memory=guest_memory or self.fitting.memory,
            image_format=self.image.format,
        )


def recognised(image: Image) -> Profile | None:
    """Returns the profile that fits to the os-release on the disk of the image, if one does and it can be read."""
    with contextlib.suppress(DiskDamaged, NotJudged):
        return profiles.matching(offline.read(image).os_release())
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@functools.cache
def _cloud() -> str:
    """A digest of the code that answers the guest in the cloud's stead: what it answered is in the guest's memory."""
    files = (entry for entry in importlib.resources.files("lifsea_testbed.ecs").iterdir() if entry.is_file())
    return _digest(b"\0".join(entry.read_bytes() for entry in sorted(files, key=lambda entry: entry.name)))


def host_is_ice_lake() -> bool:
    """Tells whether the host's processor has what QEMU's Icelake-Server model needs (AVX512-VBMI2 came with it)."""
    with contextlib.suppress(OSError):
        return " avx512_vbmi2 " in Path("/proc/cpuinfo").read_text("ascii", "replace")
    return False
