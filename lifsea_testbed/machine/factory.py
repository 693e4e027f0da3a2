"""The machine factory: the one place where machines are made, for the image, profile and hardware of one run."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import enum
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.disk.image import Image
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.instance_types import InstanceType
from lifsea_testbed.ecs.metadata_faults import NO_FAULTS, MetadataFaults
from lifsea_testbed.errors import Explained, GuestFailure, NotJudged
from lifsea_testbed.guest.guest import SubjectFactory
from lifsea_testbed.machine.access import ConsoleAccess
from lifsea_testbed.machine.context import RunContext
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.preflight import fit_memory
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.qemu import command_line
from lifsea_testbed.qemu.accelerator import Accelerator
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.qemu.instruction_counter import Counter
from lifsea_testbed.qemu.storage import Layers, MemoryFile
from lifsea_testbed.support.deadline import TimeScale
from lifsea_testbed.support.host import available_memory, processors, workers
from lifsea_testbed.support.private_dir import PrivateDirectory
from lifsea_testbed.support.sanitize import slug


class InitialState(enum.Enum):
    """The state in which a machine is returned: off, powered on without waiting, or with its root shell open."""

    OFF = "off"
    STARTED = "started"
    SHELL = "shell"


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """The specification of a machine; by default it boots from a clean disk, with an identity of its own.

    `name` names its records. `guest_memory` is in MiB, `memory` a file for its content. `prepare` is called with the
    machine while it is still off. `counter` counts instructions from the first one on. `user_data` replaces the
    script that opens the root shell. `faults` are those of its metadata service. `clock_ahead` is the error of its
    hardware clock (seconds); with `serves_time` the cloud's time servers answer, with the host's time.
    """

    name: str
    state: InitialState = InitialState.SHELL
    instance: Instance | None = None
    layers: Layers | None = None
    memory: MemoryFile | None = None
    guest_memory: int | None = None
    counter: Counter | None = None
    user_data: bytes | None = None
    faults: MetadataFaults = NO_FAULTS
    clock_ahead: int = 0
    serves_time: bool = False
    prepare: Callable[[Machine], object] = lambda machine: None

    @property
    def is_plain(self) -> bool:
        """Whether it boots the image as it is, without anything that could keep it from coming up."""
        return self.layers is None and self.user_data is None and self.faults == NO_FAULTS and not self.clock_ahead


class MachineFactory:
    """Makes machines; all their files lie in one private directory, which `close` removes.

    `announce` is called with lines about progress, one at a time. `access_methods` and `guest_subjects` are
    those of a user's plugins, by name (plugin/hooks.py).
    """

    def __init__(self, context: RunContext, *, announce: Callable[[str], None] = lambda line: None,
                 access_methods: Mapping[str, ConsoleAccess] | None = None,
                 guest_subjects: Mapping[str, SubjectFactory] | None = None) -> None:
        self.context = context
        self._access_methods, self._guest_subjects = access_methods or {}, guest_subjects or {}
        self.records = context.reports / "machines"
        self.time_scale = TimeScale(factor=context.accelerator.time_scale)
        self.profile = profiles.load(context.profile)
        self.image_version = ""
        self._tells_no_version = False
        self._announce = announce
        self._announcing = threading.Lock()
        self._first_boot_error: Explained | None = None
        self._booted = False
        self._numbers = itertools.count(1)
        self._directory = PrivateDirectory(context.scratch)
        self._directory.path.chmod(0o711)

    @property
    def image(self) -> Image:
        """The image under test."""
        return self.context.image

    @property
    def next_image(self) -> Image | None:
        """The image to upgrade to, if one was given."""
        return self.context.next_image

    @property
    def instance_type(self) -> InstanceType:
        """The instance type of the machines."""
        return self.context.instance_type

    @property
    def accelerator(self) -> Accelerator:
        """The accelerator of the machines."""
        return self.context.accelerator

    @property
    def emulator(self) -> Emulator:
        """The QEMU that runs the machines."""
        return self.context.emulator

    @property
    def data_disk(self) -> int:
        """The size of the data disk (GiB); 0 if there is none."""
        return self.profile.disks.data if self.context.data_disk is None else self.context.data_disk

    @contextlib.contextmanager
    def create(self, spec: MachineSpec) -> Iterator[Machine]:
        """A new machine as specified; it is removed when the context is left.

        Raises:
            Explained: the image did not come up. If it has never come up, later calls raise the same error at once, and
                that of a guest is marked as what kept the image down.
        """
        if spec.state is InitialState.SHELL and self._first_boot_error is not None:
            raise copy.copy(self._first_boot_error)
        with self._off(spec) as machine:
            spec.prepare(machine)
            if spec.state is InitialState.SHELL:
                self._power_on(machine, spec)
            elif spec.state is InitialState.STARTED:
                machine.start()
            yield machine

    def identify(self, machine: Machine) -> None:
        """Reads the image's version from a machine that is up, unless the image is known to tell none."""
        if self.image_version or self._tells_no_version:
            return
        try:
            self.image_version = machine.guest.system.os_release().get("VERSION_ID", "")
        except NotJudged:
            self._tells_no_version = True
        except Explained:
            pass

    def announce(self, line: str) -> None:
        """Reports a line about progress; safe to call from several threads."""
        with self._announcing:
            self._announce(line)

    def scratch_path(self, name: str) -> Path:
        """Returns a new path in the private directory for a file of that name."""
        return self._directory.path / f"{next(self._numbers)}-{name}"

    def clear_first_boot_error(self) -> None:
        """Forgets the error of the first boot: the next machine is booted although the image never came up."""
        self._first_boot_error = None

    def memory_for(self, machines: int) -> int:
        """Returns the memory (MiB) of each of so many machines: that of a single one, or an equal part of what is left.

        Raises:
            HostError: the host has too little memory for so many.
        """
        return fit_memory(self.context.memory, available_memory() // machines)

    def concurrency(self) -> int:
        """Returns how many of its machines the host can run at once; at least one."""
        return workers(processors=processors(), memory=available_memory(), guest_processors=self.instance_type.cpus,
                       guest_memory=self.context.memory)  # fmt: skip

    def hardware(self, instance: Instance | None = None, guest_memory: int | None = None) -> command_line.HardwareSpec:
        """Returns the hardware of a machine: that instance or a new one, with so many MiB or the memory of the run."""
        return command_line.HardwareSpec(
            emulator=self.emulator,
            accelerator=self.accelerator,
            instance=instance or self.new_instance(),
            memory=guest_memory or self.context.memory,
            image_format=self.image.format, image_size=self.image.virtual_size,
            firmware=self.context.firmware_files,
        )

    def new_instance(self) -> Instance:
        """Returns an instance of the run's type, with an identity of its own."""
        return Instance(type=self.instance_type, data_disk=self.data_disk, firmware=self.context.firmware)

    def close(self) -> None:
        """Removes the private directory with the machines' files."""
        self._directory.close()

    @contextlib.contextmanager
    def _off(self, spec: MachineSpec) -> Iterator[Machine]:
        """A machine that is still off; if it fails, its post-mortem records are collected."""
        with self._directories(spec.name) as (directory, records), self.accelerator.confined() as confinement:
            machine = Machine(
                hardware=_special(self.hardware(spec.instance, spec.guest_memory), spec), image=self.image,
                profile=lambda: self.profile, time_scale=self.time_scale, directory=directory, records=records,
                confinement=confinement, user_data=spec.user_data, layers=self._layers(spec),
                memory=spec.memory, dump_memory=self.context.dump_memory, counter=spec.counter,
                access_methods=self._access_methods, guest_subjects=self._guest_subjects, faults=spec.faults,
            )  # fmt: skip
            try:
                yield machine
            except Explained as error:
                error.records = records
                with contextlib.suppress(OSError):
                    machine.collect_postmortem()
                raise
            finally:
                machine.close()

    def _layers(self, spec: MachineSpec) -> Layers:
        """The layers of that specification, with the variables that UEFI begins with where it has no others."""
        files, layers = self.context.firmware_files, spec.layers or Layers()
        return dataclasses.replace(layers, variables=layers.variables or files.variables) if files else layers

    @contextlib.contextmanager
    def _directories(self, name: str) -> Iterator[tuple[Path, Path]]:
        """Creates a private directory, which is removed at the end, and one for the records, which stays."""
        directory = self._directory.path / str(next(self._numbers))
        directory.mkdir(mode=0o700)
        records = self.records / slug(name) / os.environ.get("PYTEST_XDIST_WORKER", "")
        shutil.rmtree(records, ignore_errors=True)
        records.mkdir(parents=True)
        try:
            yield directory, records
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _power_on(self, machine: Machine, spec: MachineSpec) -> None:
        limit = self.profile.boot.shell_within * self.time_scale.factor
        self.announce(f"powering on {machine.instance.id}: waiting up to {limit:.0f} s for a shell")
        try:
            machine.power_on()
        except Explained as error:
            if isinstance(error, GuestFailure):
                held_to = f"held to profile {self.profile.name} ({self.context.profile_reason})"
                error.hint = f"{error.hint}; {held_to}" if error.hint else held_to
            if not self._booted:
                self._note_first_boot(error, machine, spec)
            raise
        self._booted = True
        self.identify(machine)
        self.announce(f"shell open after {machine.shell_after:.1f} s by {machine.access_method}, "
                      f"profile {self.profile.name}")  # fmt: skip


    def _note_first_boot(self, error: Explained, machine: Machine, spec: MachineSpec) -> None:
        """Notes why the image did not come up; after a boot that was made difficult, by another one that is plain.

        Raises:
            Explained: the plain boot failed as well, and why.
        """
        if spec.is_plain:
            self._first_boot_error = error
            if isinstance(error, GuestFailure):
                error.kept_image_down = True
        elif isinstance(error, GuestFailure):
            machine.collect_postmortem()
            machine.boot.close()
            with self.create(MachineSpec(name=f"{spec.name}-plain")):
                pass


def _special(hardware: command_line.HardwareSpec, spec: MachineSpec) -> command_line.HardwareSpec:
    """Returns the hardware with the clock and the time servers of that specification."""
    ahead = datetime.timedelta(seconds=spec.clock_ahead)
    clock = datetime.datetime.now(datetime.UTC) + ahead if ahead else None
    return dataclasses.replace(hardware, clock=clock, has_hub=spec.serves_time)
