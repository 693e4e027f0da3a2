"""The bench: the image, the profile, the host and the hardware of one run, and the machines made from them."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from lifsea_testbed import profile as profiles
from lifsea_testbed.deadline import Patience
from lifsea_testbed.ecs.catalogue import InstanceType
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import Explained, HostError, NotJudged
from lifsea_testbed.image import Image
from lifsea_testbed.machine import Machine
from lifsea_testbed.qemu import argv
from lifsea_testbed.qemu.accelerator import Accelerator
from lifsea_testbed.qemu.counter import Counter
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.qemu.overlay import Layers
from lifsea_testbed.text import slug

#: The profile that an image is held to when none is named and its os-release fits none.
FALLBACK = "lifsea-3.3"
AUTO = "auto"
#: QEMU's own memory beside the guest's, and what the rest of the host must keep (MiB).
_OVERHEAD = 512
#: Below this (MiB) no profile's image boots to its kubelet.
_LEAST_MEMORY = 1024
#: What a machine's overlay may come to need (bytes): a deployed second image and its containers.
LEAST_DISK = 3 << 30


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
    memory = min(wanted, available - _OVERHEAD)
    if memory < _LEAST_MEMORY:
        raise HostError(f"only {available} MiB of memory are free", expected=f"{_LEAST_MEMORY + _OVERHEAD} MiB",
                        hint="stop other programs, or run on a larger host")  # fmt: skip
    return Fitting(memory=memory // 256 * 256 if memory < wanted else wanted, wanted=wanted)


def workers(*, processors: int, memory: int) -> int:
    """Returns how many machines run side by side on a host with processors and memory for so many."""
    return max(1, min(processors, memory))


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
                 dump_memory: bool = False) -> None:
        self.image = image
        self.next_image = next_image
        self.instance_type = instance_type
        self.emulator = emulator
        self.accelerator = accelerator
        self.fitting = fitting
        self.records = records
        self._dump_memory = dump_memory
        self.patience = Patience(factor=accelerator.patience)
        self.profile = profiles.load(FALLBACK if profile == AUTO else profile)
        self.image_version = ""
        self.say: Callable[[str], None] = lambda line: None
        self._identified = profile != AUTO
        self._hopeless: Explained | None = None
        self._booted = False
        self._numbers = itertools.count(1)
        self._directory = Path(tempfile.mkdtemp(prefix="lifsea-testbed-"))
        self._directory.chmod(0o711)

    @property
    def profile_name(self) -> str:
        """The name of the profile that images are held to."""
        return self.profile.name

    @contextlib.contextmanager
    def machine(self, name: str) -> Iterator[Machine]:
        """A new machine, powered on, its root shell open; gone when the context is left.

        Raises:
            Explained: the image did not come up. If it never did before, later calls raise the same at once.
        """
        if self._hopeless is not None:
            raise copy.copy(self._hopeless)
        with self._made(name) as machine:
            self._power_on(machine)
            yield machine

    @contextlib.contextmanager
    def cold(self, name: str, counter: Counter | None) -> Iterator[Machine]:
        """A new machine like `machine`, on which the counter, if there is one, counts from the first instruction on.

        Raises:
            Explained: the image did not come up.
        """
        with self._made(name, counter=counter) as machine:
            self._power_on(machine)
            yield machine

    @contextlib.contextmanager
    def started(self, name: str, *, user_data: bytes) -> Iterator[Machine]:
        """A new machine that was given that user-data, powered on and not waited for."""
        with self._made(name, user_data) as machine:
            machine.start()
            yield machine

    @contextlib.contextmanager
    def off(self, name: str, *, layers: Layers, instance: Instance) -> Iterator[Machine]:
        """A machine with that identity and these layers of its disk, off; the caller powers it on."""
        with self._made(name, layers=layers, instance=instance) as machine:
            yield machine

    @contextlib.contextmanager
    def _made(self, name: str, user_data: bytes | None = None, *, layers: Layers | None = None,
              instance: Instance | None = None, counter: Counter | None = None) -> Iterator[Machine]:
        with self._directories(name) as (directory, records):
            machine = Machine(
                hardware=self._hardware(instance), image=self.image, profile=lambda: self.profile,
                patience=self.patience, directory=directory, records=records, confinement=self.accelerator.confinement,
                user_data=user_data, layers=layers, counter=counter,
                dump_memory=self._dump_memory,
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

    def forgive(self) -> None:
        """Has an image that never came up be tried again."""
        self._hopeless = None

    def close(self) -> None:
        """Removes everything that the machines left."""
        shutil.rmtree(self._directory, ignore_errors=True)

    @contextlib.contextmanager
    def _directories(self, name: str) -> Iterator[tuple[Path, Path]]:
        """A private directory that is removed at the end, and one for the records, which stays."""
        directory = self._directory / str(next(self._numbers))
        directory.mkdir(mode=0o700)
        records = self.records / slug(name) / os.environ.get("PYTEST_XDIST_WORKER", "")
        shutil.rmtree(records, ignore_errors=True)
        records.mkdir(parents=True)
        try:
            yield directory, records
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _power_on(self, machine: Machine) -> None:
        most = self.profile.boot.shell_within * self.patience.factor
        self.say(f"powering on {machine.instance.id}: a shell may take {most:.0f} s")
        try:
            machine.power_on()
        except Explained as error:
            self._hopeless = None if self._booted else error
            raise
        self._booted = True
        self.identify(machine)
        self.say(f"shell open after {machine.shell_after:.1f} s by {machine.road}, profile {self.profile.name}")

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

    def _hardware(self, instance: Instance | None) -> argv.Hardware:
        return argv.Hardware(
            emulator=self.emulator,
            accelerator=self.accelerator.kind,
            host_is_ice_lake=host_is_ice_lake(),
            instance=instance or Instance(type=self.instance_type),
            memory=self.fitting.memory,
            image_format=self.image.format,
        )


def available_memory() -> int:
    """Returns the memory that the host can still give (MiB), a limit of the control group included."""
    available = psutil.virtual_memory().available >> 20
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text("ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
        available = min(available, (limit - used) >> 20)
    return available


def host_is_ice_lake() -> bool:
    """Tells whether the host's processor has what QEMU's Icelake-Server model needs (AVX512-VBMI2 came with it)."""
    with contextlib.suppress(OSError):
        return " avx512_vbmi2 " in Path("/proc/cpuinfo").read_text("ascii", "replace")
    return False


def host_cores() -> int:
    """Returns the processors that this process may use."""
    return len(os.sched_getaffinity(0))
