"""Leftovers: private directories that carry their owner's lock, and what runs that were killed left of them.

A lock (flock(2)) goes with the process that holds it, however that ends. So a directory that can be locked is nobody's.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_PREFIX = "lifsea-run-"
#: The file system in memory that every Linux has (shm_overview(7)).
IN_MEMORY = Path("/dev/shm")
#: prctl(2), PR_SET_PDEATHSIG.
_SIGNAL_AT_PARENTS_DEATH = 1
#: How long a process that was killed may take to be gone (seconds).
_DYING = 10.0


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A directory whose owner is dead: its size in bytes, and the processes that still work in it."""

    path: Path
    size: int
    processes: tuple[int, ...]

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.path} ({self.size >> 20} MiB, {len(self.processes)} processes)"


class PrivateDirectory:
    """A new directory in a place for temporary files, locked for as long as this process has it.

    Its name is short: a socket's address has 108 bytes (unix(7)).
    """

    def __init__(self, place: Path | None = None) -> None:
        self.path, self._lock = _make(place)

    def __enter__(self) -> PrivateDirectory:
        """Nothing is left to be done."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes it."""
        self.close()

    def close(self) -> None:
        """Removes it with everything in it; a second time does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def find() -> list[Leftover]:
    """Returns the directories, of this user and in the places for temporary files, whose owners are dead."""
    found = []
    for path in [path for place in places() for path in sorted(place.glob(f"{_PREFIX}*"))]:
        with _locked(path) as is_ours:
            if is_ours:
                processes = tuple(process.pid for process in _at_work_in(path))
                found.append(Leftover(path=path, size=allocated(path), processes=processes))
    return found


def places() -> list[Path]:
    """Returns where private directories are made: on disk, and in memory unless the user named the place (TMPDIR)."""
    on_disk = Path(tempfile.gettempdir())
    return [on_disk] if os.environ.get("TMPDIR") or not IN_MEMORY.is_dir() else [on_disk, IN_MEMORY]


def remove(leftover: Leftover) -> None:
    """Removes a directory whose owner is dead, after the processes that work in it."""
    with _locked(leftover.path) as is_ours:
        if is_ours:
            processes = _at_work_in(leftover.path)
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=_DYING)
            shutil.rmtree(leftover.path, ignore_errors=True)


def clean() -> list[Leftover]:
    """Removes everything that dead runs left, and returns what that was."""
    found = find()
    for leftover in found:
        remove(leftover)
    return found


def allocated(directory: Path) -> int:
    """Returns what a directory takes up (bytes); files with holes take up less than they are long.

    What goes away meanwhile does not count.
    """
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(folder) / name).st_blocks * 512
    return total


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends; does nothing if another process is its parent.

    Without it a worker of xdist whose controller was killed goes on for as long as execnet waits for it.
    """
    if os.getppid() == parent:
        ctypes.CDLL(None, use_errno=True).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _make(place: Path | None) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        try:
            return path, _lock(path)
        except FileNotFoundError:
            continue  # somebody took it for a leftover before it was locked, and removed it
        except BlockingIOError:
            with contextlib.suppress(OSError):
                path.rmdir()
        except OSError:
            return path, -1  # a file system without locks: there nobody takes it for a leftover, either


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Tells whether the directory is this user's and nobody has it; nobody gets it as long as the context lasts."""
    try:
        lock = _lock(path)
    except OSError:
        yield False
        return
    try:
        yield os.fstat(lock).st_uid == os.geteuid()
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    """The descriptor that holds the lock.

    Raises:
        BlockingIOError: another has it.
        FileNotFoundError: the directory is gone.
        OSError: no directory, or one that cannot be locked.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), path.lstat()):
            raise FileNotFoundError(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _at_work_in(directory: Path) -> list[psutil.Process]:
    """The processes whose working directory lies there: QEMU, and what it starts, work in a machine's directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(directory):
                found.append(process)
    return found
