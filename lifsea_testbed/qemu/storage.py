"""The files below a machine: the overlay that takes its writes, its data disk, its UEFI variables, and its memory."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.errors import HostError
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.programs import Ended, run_tool

#: The smallest system disk that ECS sells with a g7 (ESSD, 20 GiB): a smaller image can grow into it.
SYSTEM_DISK = 20 << 30
#: How long an empty overlay, and a copy of a machine's memory or disk, may take (seconds).
_CREATING, _COPYING = 60.0, 600.0
_NO_ROOM = "free disk space, or set TMPDIR to another disk"


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The disks (qcow2) between the image and a machine's overlay, the lowest first, and the logs of writes and reads.

    The overlay is always created anew. A path given here outlives the machine. `variables` is the store of UEFI
    variables that it begins with a copy of.
    """

    below: tuple[Path, ...] = ()
    overlay: Path | None = None
    write_log: Path | None = None
    reads: Path | None = None
    variables: Path | None = None


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


class HeldFile:
    """A regular file that is opened once and held until `close`: later it is opened by descriptor, never by name.

    Raises:
        HostError: it is no regular file.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = open_regular(path, os.O_RDWR)

    def open(self, mode: int) -> int:
        """Returns a new descriptor of the same file, which shares neither position nor locks with others."""
        return os.open(f"/proc/self/fd/{self._descriptor}", mode | os.O_CLOEXEC)

    @property
    def modified_at(self) -> int:
        """When it was last written to (nanoseconds since the epoch)."""
        return os.fstat(self._descriptor).st_mtime_ns

    def content(self) -> bytes:
        """Returns the whole content of a small file."""
        with os.fdopen(self.open(os.O_RDONLY), "rb") as file:
            return file.read()

    def overwrite(self, content: bytes) -> None:
        """Writes the whole content of a small file, in place."""
        with os.fdopen(self.open(os.O_WRONLY), "wb") as file:
            file.write(content)

    def close(self) -> None:
        """Releases the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class HeldDisks:
    """The overlay, the data disk and the UEFI variables of a machine, made anew, and held over all its power cycles.

    The store of variables is a copy of that template, if there is one, at `beside(overlay)`.

    Raises:
        HostError: the host's disk is full, its file system has no files of that size, or the template cannot be read.
    """

    def __init__(self, overlay: Path, data: Path, *, image_size: int, data_disk: int,
                 variables: Path | None = None) -> None:
        create_overlay(overlay, image_size=image_size)
        made = create_data_disk(data, size=data_disk)
        store = beside(overlay) if variables else None
        if variables and store:
            copy_whole(variables, store)
        self.overlay, self.data = HeldFile(overlay), HeldFile(made) if made else None
        self.variables = HeldFile(store) if store else None
        self._modified, self._variables = list[int](), b""

    @property
    def all(self) -> tuple[HeldFile, ...]:
        """Those that there are."""
        return tuple(file for file in (self.overlay, self.data, self.variables) if file)

    def begin(self) -> None:
        """Notes the state of the disks and the variables before the machine runs."""
        self._modified = self._modified_at()
        self._variables = self.variables.content() if self.variables else b""

    @property
    def untouched(self) -> bool:
        """Whether neither overlay nor data disk was written to since `begin`."""
        return self._modified_at() == self._modified

    def put_back(self) -> None:
        """Writes the variables as they were at `begin`; no machine may run."""
        if self.variables:
            self.variables.overwrite(self._variables)

    def _modified_at(self) -> list[int]:
        return [file.modified_at for file in self.all if file is not self.variables]

    def close(self) -> None:
        """Releases the files; a second call does nothing."""
        for file in self.all:
            file.close()


def beside(overlay: Path) -> Path:
    """Returns the file of the UEFI variables of the machine with that overlay."""
    return overlay.with_suffix(".fd")


def open_regular(path: Path, mode: int) -> int:
    """Opens a file of the test bed's own, with mode 0600 if it is created; never what a link leads to.

    Raises:
        HostError: it is no regular file.
        OSError: it is a symbolic link, or cannot be opened.
    """
    descriptor = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HostError(f"{path} is no regular file", hint="another program changed a directory of the test bed")
    return descriptor


def create_overlay(path: Path, *, image_size: int) -> None:
    """Creates an empty overlay with the size of the instance's system disk, or of the image if that is larger.

    It names no backing file: QEMU's command line says which image lies below, so no path in an overlay is ever
    followed.

    Raises:
        HostError: the disk is full, the directory is not there, or qemu-img failed for another reason.
    """
    size = max(image_size, SYSTEM_DISK)
    _create_empty(path)
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
        with os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.truncate(size << 30)
    except OSError as error:
        raise HostError(f"no data disk of {size} GiB can be made in {path.parent}: {error.strerror}",
                        hint="a smaller --data-disk, or set TMPDIR to another file system") from None
    return path


def copy_whole(source: Path, target: Path) -> None:
    """Copies a file of UEFI variables without holes: a later write to it needs no room on the disk.

    QEMU tells nobody of a write to flash that failed, so it must not fail.

    Raises:
        HostError: it cannot be read, or the disk is full.
    """
    try:
        content = source.read_bytes()
        with os.fdopen(open_regular(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(content)
    except OSError as error:
        raise HostError(f"the UEFI variables {source} cannot be copied to {target}: {error.strerror}",
                        hint=_NO_ROOM) from None


def create_memory_file(path: Path, *, size: int) -> None:
    """Creates a sparse file for `size` MiB of memory; it takes room on disk as the guest touches its pages."""
    with os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.truncate(size << 20)


def copy_sparse(source: Path, target: Path) -> None:
    """Copies a regular file with its holes, by reference (reflink) where the file system supports it; follows no link.

    Raises:
        HostError: the source is no regular file or cannot be read, the disk is full, or cp failed for another reason.
    """
    try:
        descriptor = open_regular(source, os.O_RDONLY)
    except OSError as error:
        raise HostError(f"{source} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb"):
        command = ["cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode", f"/proc/self/fd/{descriptor}",
                   str(target)]  # fmt: skip
        copied = run_tool(command, within=_COPYING, inherit=[descriptor])
    if copied.returncode:
        raise _failed(f"cp could not write {target}", command, copied)


def _create_empty(path: Path) -> None:
    try:
        os.close(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    except OSError as error:
        raise HostError(f"the overlay {path} cannot be created: {error.strerror}", hint=_NO_ROOM) from None


def _failed(happened: str, command: list[str], ended: Ended) -> HostError:
    """The error for a tool that failed: the first line of its stderr, and a hint only if the disk may be full."""
    first = (split_lines(ended.stderr.strip()) or [f"exited with status {ended.returncode}"])[0]
    full = "No space left" in ended.stderr or "quota" in ended.stderr.lower()
    return HostError(f"{happened}: {first}", evidence=f"{shlex.join(command)}\n{ended.stderr}",
                     hint=_NO_ROOM if full else "check that the directory exists and is writable")
