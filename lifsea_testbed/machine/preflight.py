"""Preflight: everything that can be refused is refused here, in one line, before anything boots."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.disk.image import Image, examine
from lifsea_testbed.ecs import instance_types as instances
from lifsea_testbed.errors import CallerError
from lifsea_testbed.machine import factory as benches
from lifsea_testbed.machine.factory import Bench, Fitting
from lifsea_testbed.machine.found import Found
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.qemu import accelerator as accelerators
from lifsea_testbed.qemu import emulator as emulators
from lifsea_testbed.qemu.accelerator import Accelerator
from lifsea_testbed.support import host, private_dir
from lifsea_testbed.support.private_dir import Leftover
from lifsea_testbed.support.shard import ShardIndex


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asked for, as on the command line."""

    image: str
    next_image: str | None
    profile: str
    instance_type: str
    accelerator: str
    reports: Path
    claims: tuple[str, ...] = ()
    #: The k-th of n parts of the tests, or all of them.
    shard: ShardIndex | None = None
    known_issues: tuple[Path, ...] = ()
    dump_memory: bool = False
    workers: int = 1
    data_disk: int | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A wish that this host can grant; `cleaned` is what earlier runs had left on it."""

    wish: Wish
    image: Image
    next_image: Image | None
    accelerator: Accelerator
    emulator: emulators.Emulator
    fitting: Fitting
    place: Path
    cleaned: tuple[Leftover, ...] = ()

    @property
    def found(self) -> Found:
        """What the other processes of the run need not find out again."""
        return Found(image=self.image, next_image=self.next_image, accelerator=self.accelerator,
                     memory=self.fitting.memory, place=self.place)

    def bench(self) -> Bench:
        """Returns the bench for one process of the run."""
        return Bench(
            image=self.image, next_image=self.next_image, profile=self.wish.profile,
            instance_type=instances.find(self.wish.instance_type), emulator=self.emulator,
            accelerator=self.accelerator, fitting=self.fitting, records=self.wish.reports / "machines",
            dump_memory=self.wish.dump_memory,
            place=self.place,
            data_disk=self.wish.data_disk,
        )  # fmt: skip


def prepare(wish: Wish, *, found: Found | None = None) -> Prepared:
    """Checks the wish against image, profile, catalogue and host; `found` is what another process found out already.

    What runs that were killed left on the host is removed.

    Raises:
        CallerError: the input is bad.
        HostError: the host cannot do it.
    """
    instance_type = instances.find(wish.instance_type)
    if unknown := [claim for claim in wish.claims if claim not in catalogue()]:
        raise CallerError(f"unknown claims {', '.join(unknown)}", hint="see claims.toml")
    if wish.profile != benches.AUTO:
        profiles.load(wish.profile)
    emulator = emulators.find()
    cleaned = tuple(private_dir.clean())
    found = found or _find_out(wish, emulator, wanted=instance_type.memory)
    benches.require_disk(found.place)
    _require_directory(wish.reports)
    return Prepared(wish=wish, image=found.image, next_image=found.next_image, emulator=emulator,
                    fitting=Fitting(memory=found.memory, wanted=instance_type.memory), accelerator=found.accelerator,
                    place=found.place, cleaned=cleaned)  # fmt: skip


def _find_out(wish: Wish, emulator: emulators.Emulator, *, wanted: int) -> Found:
    """Examines the images and measures the host, on which guests want so many MiB of memory."""
    image = examine(Path(wish.image))
    next_image = examine(Path(wish.next_image)) if wish.next_image else None
    available = host.available_memory()
    fitting = benches.fit_memory(wanted, available // wish.workers)
    place = benches.choose_place(private_dir.places(), machines=wish.workers, fitting=fitting, memory=available)
    return Found(image=image, next_image=next_image, accelerator=accelerators.choose(wish.accelerator, emulator),
                 memory=fitting.memory, place=place)  # fmt: skip


def workers(instance_type: str) -> int:
    """Returns how many workers with a machine of that type the host bears.

    Raises:
        CallerError: there is no such type.
        HostError: the host has too little memory for one.
    """
    wanted, available = instances.find(instance_type), host.available_memory()
    return host.workers(processors=host.processors(), memory=available, guest_processors=wanted.cpus,
                        guest_memory=benches.fit_memory(wanted.memory, available).memory)  # fmt: skip


def _require_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallerError(f"{path}: cannot be used for reports: {error.strerror}", hint="choose another --reports") \
            from None
    if not os.access(path, os.W_OK):
        raise CallerError(f"{path}: cannot be written", hint="choose another --reports")
