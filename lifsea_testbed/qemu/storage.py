"""The files below a machine: the overlay that takes its writes, its data disk, and the file that holds its memory."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.errors import HostError
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.programs import run_tool

#: The smallest system disk that ECS sells with a g7 (ESSD, 20 GiB): a smaller image can grow into it.
SYSTEM_DISK = 20 << 30
#: How long an empty overlay, and a copy of a machine's memory or disk, may take (seconds).
_CREATING, _COPYING = 60.0, 600.0
_NO_ROOM = "free disk space, or set TMPDIR to another disk"


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The disks (qcow2) between the image and a machine's overlay, the lowest first, and the logs of writes and reads.

    The overlay is always created anew. A path given here outlives the machine.
    """

    below: tuple[Path, ...] = ()
    overlay: Path | None = None
    write_log: Path | None = None
    reads: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MemoryFile:
    """The file that holds a machine's memory, and the saved state of its devices unless it starts from firmware.

    With the capability `x-ignore-shared` QEMU leaves memory that it shares with a file out of a migration stream: the
    stream then holds the state of the devices only, a few MiB, so that a machine is saved in a moment. A restored
    machine maps the file privately (`copied`): pages are read as the guest touches them, those that it writes are
    copied, and the file stays unchanged for all other machines restored from it. Without `copied` the machine writes to
    the file, and can be saved.
    """

    path: Path
    copied: bool = False
    state: Path | None = None


def create_overlay(path: Path, *, image_size: int) -> None:
    """Creates an empty overlay with the size of the instance's system disk, or of the image if that is larger.

    It names no backing file: QEMU's command line says which image lies below, so no path in an overlay is ever
    followed.

    Raises:
        HostError: the disk is full, or qemu-img failed for another reason.
    """
    size = max(image_size, SYSTEM_DISK)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size)]
    created = run_tool(command, within=_CREATING)
    if created.returncode:
        raise _failed(f"qemu-img could not create the overlay {path}", command, created)


def create_data_disk(path: Path, *, size: int) -> Path | None:
    """Creates an empty data disk of `size` GiB, a sparse file, and returns its path; None for a size of 0.

    Raises:
        HostError: the file system there has no files of that size.
    """
    if not size:
        return None
    try:
        with path.open("wb") as file:
            file.truncate(size << 30)
    except OSError as error:
        raise HostError(f"no data disk of {size} GiB can be made in {path.parent}: {error.strerror}",
                        hint="a smaller --data-disk, or set TMPDIR to another file system") from None
    return path


def create_memory_file(path: Path, *, size: int) -> None:
    """Creates a sparse file for `size` MiB of memory; it takes room on disk as the guest touches its pages."""
    with path.open("xb") as file:
        file.truncate(size << 20)


def copy_sparse(source: Path, target: Path) -> None:
    """Copies a file with its holes, by reference (reflink) where the file system supports it.

    Raises:
        HostError: the disk is full, or cp failed for another reason.
    """
    command = ["cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode", str(source), str(target)]
    copied = run_tool(command, within=_COPYING)
    if copied.returncode:
        raise _failed(f"cp could not write {target}", command, copied)


def _failed(happened: str, command: list[str], ended: subprocess.CompletedProcess[str]) -> HostError:
    """The error for a tool that failed: the first line of its stderr, and a hint only if the disk may be full."""
    first = (split_lines(ended.stderr.strip()) or [f"exited with status {ended.returncode}"])[0]
    full = "No space left" in ended.stderr or "quota" in ended.stderr.lower()
    return HostError(f"{happened}: {first}", evidence=f"{shlex.join(command)}\n{ended.stderr}",
                     hint=_NO_ROOM if full else "check that the directory exists and is writable")
