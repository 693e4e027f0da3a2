"""Preflight: checks options, images and host before anything boots, and refuses bad ones in one line."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lifsea_testbed.disk.image import Image, examine
from lifsea_testbed.ecs import instance_types
from lifsea_testbed.errors import (
    CallerError,
    DiskDamaged,
    HostError,
    ImageRefused,
    NotJudged,
    ProfileRefused,
    Reason,
)
from lifsea_testbed.guest import offline
from lifsea_testbed.machine.context import AUTO, RunContext
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles import recognition
from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.profiles.recognition import ProfileChoice
from lifsea_testbed.qemu import accelerator as accelerators
from lifsea_testbed.qemu import emulator as emulators
from lifsea_testbed.qemu import firmware as firmwares
from lifsea_testbed.support import host, private_dir
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.support.host import OVERHEAD
from lifsea_testbed.support.shard import ShardIndex

#: The least memory (MiB) with which the image of any profile boots to its kubelet.
_LEAST_MEMORY = 1024
#: The words of --require beside the claims: all of them, or those that are not judged for one reason.
REQUIRED = ("all", *Reason)
#: The disk space that a machine's overlay may need (bytes): a deployed second image and its containers.
LEAST_DISK = 3 << 30


def run_context(*, image: str, reports: Path, next_image: str | None = None, profile: str = AUTO,
                instance_type: str = instance_types.DEFAULT, accelerator: str = "auto", claims: Sequence[str] = (),
                required: Sequence[str] = (), shard: ShardIndex | None = None, known_issues: Sequence[Path] = (),
                dump_memory: bool = False, workers: int = 1, data_disk: int | None = None, firmware: str = AUTO,
                durations: Mapping[str, float] | None = None) -> RunContext:
    """Checks the options against images, profiles, catalogue and host, and returns the context of the run.

    Removes the leftovers of killed runs from the host.

    Raises:
        CallerError: an option is invalid.
        HostError: this host lacks something that the run needs.
    """
    size = instance_types.find(instance_type)
    if unknown := [claim for claim in claims if claim not in catalogue()]:
        raise CallerError(f"--claim {', '.join(unknown)}: unknown claim", hint="see claims.toml")
    if unknown := [word for word in required if word not in (*REQUIRED, *catalogue())]:
        raise CallerError(f"--require {', '.join(unknown) or repr('')}: neither a claim nor a reason",
                          hint=f"one of {', '.join(REQUIRED)}, or a claim; lifsea-testbed explain lists those")
    if profile != AUTO:
        profiles.load(profile)
    _require_temporary()
    emulator = emulators.find()
    removed = tuple(private_dir.clean())
    examined, other = examine(Path(image)), examine(Path(next_image)) if next_image else None
    choice = choose_profile(profile, examined)
    chosen, why = choose_firmware(firmware, profiles.load(choice.name), examined)
    available = host.available_memory()
    memory = fit_memory(size.memory, available // workers)
    scratch = choose_scratch(private_dir.places(), machines=workers, memory=memory, available=available)
    context = RunContext(
        image=examined, next_image=other, profile=choice.name, profile_reason=choice.why, instance_type=size,
        accelerator_option=accelerator, accelerator=accelerators.choose(accelerator, emulator), emulator=emulator,
        memory=memory, scratch=scratch, reports=reports, claims=tuple(claims), required=tuple(required), shard=shard,
        known_issues=tuple(known_issues), dump_memory=dump_memory, data_disk=data_disk, durations=durations or {},
        removed=removed, firmware=chosen, firmware_reason=why,
        firmware_files=firmwares.find(chosen, emulator.board(chosen)),
    )  # fmt: skip
    require_disk(scratch)
    _require_directory(reports)
    return context


def choose_profile(option: str, image: Image) -> ProfileChoice:
    """Returns the profile of a run: the one that --profile names, or with `auto` the one made for the image's OS.

    Raises:
        ProfileRefused: with `auto`, the image's OS cannot be read from its disk, or has no profile.
    """
    if option != AUTO:
        return ProfileChoice(name=option, why="named by --profile")
    try:
        return recognition.choose(offline.read(image).release(recognition.marker_files()))
    except (DiskDamaged, NotJudged) as error:
        why = error.happened if isinstance(error, DiskDamaged) else error
        raise ProfileRefused(f"--profile auto: {image.path.name}: the OS on its disk is not recognised: {why}",
                             hint=recognition.hint()) from None


def choose_firmware(option: str, profile: Profile, image: Image) -> tuple[Firmware, str]:
    """Returns the firmware of a run, and why: the one that --firmware or the profile names, or that the disk is for.

    A disk that cannot be read offline is booted by the one that is named, or by a BIOS.

    Raises:
        ImageRefused: the disk has nothing that this firmware boots.
    """
    named = f"named by {'the profile' if option == AUTO else '--firmware'}"
    wanted = profile.boot.firmware if option == AUTO else option
    try:
        found = offline.OfflineTree(image).loaders()
    except (DiskDamaged, NotJudged):
        return (Firmware.BIOS, "its disk is not read offline") if wanted == AUTO else (Firmware(wanted), named)
    chosen, why = found.choice()
    other = f"--firmware {chosen}: {why}" if why else "it needs a boot loader: make it again, for the whole disk"
    if lack := found.lacks(chosen if wanted == AUTO else Firmware(wanted)):
        by = "it boots by no firmware" if wanted == AUTO else f"{wanted}, {named}, does not boot it"
        raise ImageRefused(f"{image.path.name}: {by}: {lack}", hint=other)
    return (chosen, why) if wanted == AUTO else (Firmware(wanted), named)


def fit_memory(wanted: int, available: int) -> int:
    """Returns the memory (MiB) of a guest that wants so many MiB on a host with so many MiB available.

    Raises:
        HostError: less is available than any image needs.
    """
    memory = min(wanted, available - OVERHEAD)
    if memory < _LEAST_MEMORY:
        raise HostError(f"only {available} MiB of memory are free", expected=f"{_LEAST_MEMORY + OVERHEAD} MiB",
                        hint="stop other programs, or run on a larger host")  # fmt: skip
    return memory // 256 * 256 if memory < wanted else wanted


def choose_scratch(places: Sequence[Path], *, machines: int, memory: int, available: int) -> Path:
    """Returns the last of the places, a file system in memory, if the overlays of so many machines fit into it.

    The guests (`memory` MiB each) must fit into the available memory (MiB) as well. Otherwise returns the first place,
    which is on disk.
    """
    needed, left = machines * LEAST_DISK, available - machines * (memory + OVERHEAD)
    fits = left >= needed >> 20 and shutil.disk_usage(places[-1]).free >= needed
    return places[-1] if fits else places[0]


def require_disk(directory: Path) -> None:
    """Makes sure that the directory has room for a machine's overlay.

    Raises:
        HostError: it has not.
    """
    free = shutil.disk_usage(directory).free
    if free < LEAST_DISK:
        raise HostError(f"only {free >> 20} MiB are free in {directory}", expected=f"{LEAST_DISK >> 20} MiB",
                        hint="free disk space, or set TMPDIR to another disk")  # fmt: skip


def workers(instance_type: str) -> int:
    """Returns the number of workers, each with a machine of that type, that this host can run.

    Raises:
        CallerError: there is no such type.
        HostError: the host has too little memory for one.
    """
    size, available = instance_types.find(instance_type), host.available_memory()
    return host.workers(processors=host.processors(), memory=available, guest_processors=size.cpus,
                        guest_memory=fit_memory(size.memory, available))  # fmt: skip


def _require_temporary() -> None:
    """Makes sure that temporary files can be written where TMPDIR says; Python would quietly take another directory."""
    place = os.environ.get("TMPDIR")
    if place:
        try:
            with tempfile.TemporaryFile(dir=place, buffering=0) as file:
                file.write(b"\0")
        except OSError as error:
            raise CallerError(f"TMPDIR {place}: cannot be written: {error.strerror or error}",
                              hint="set it to a directory on a disk with room") from None  # fmt: skip


def _require_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallerError(f"--reports {path}: cannot be used: {error.strerror}", hint="choose another directory") \
            from None
    if not os.access(path, os.W_OK):
        raise CallerError(f"--reports {path}: cannot be written", hint="choose another directory")
