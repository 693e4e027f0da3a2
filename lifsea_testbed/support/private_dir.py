"""Private directories with their owner's lock, and the leftovers of runs that were killed.

The kernel releases a lock (flock(2)) when its process ends, even if that was killed. So a directory that can be locked
has no owner any more.
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
#: How long a killed process may take to end (seconds).
_DYING = 10.0


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A directory whose owner has ended: its size in bytes, and the processes whose working directory it still is."""

    path: Path
    size: int
    processes: tuple[int, ...]

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.path} ({self.size >> 20} MiB, {len(self.processes)} processes)"


class PrivateDirectory:
    """A new directory for temporary files, locked until it is closed or this process ends.

    Its name is short: a socket's address has 108 bytes (unix(7)).
    """

    def __init__(self, place: Path | None = None) -> None:
        self.path, self._lock = _make(place)

    def __enter__(self) -> PrivateDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the directory."""
        self.close()

    def close(self) -> None:
        """Removes the directory and its content; a second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def find() -> list[Leftover]:
    """Returns this user's private directories whose owners have ended."""
    found = []
    for path in [path for place in places() for path in sorted(place.glob(f"{_PREFIX}*"))]:
        with _locked(path) as is_ours:
            if is_ours:
                processes = tuple(process.pid for process in _at_work_in(path))
                found.append(Leftover(path=path, size=allocated(path), processes=processes))
    return found


def places() -> list[Path]:
    """Returns where private directories are created: on disk, and in memory unless TMPDIR is set.

    A file system in memory to which this user cannot write is none.
    """
    on_disk = Path(tempfile.gettempdir())
    return [on_disk] if os.environ.get("TMPDIR") or not _is_writable(IN_MEMORY) else [on_disk, IN_MEMORY]


def remove(leftover: Leftover) -> None:
    """Kills the processes that work in a leftover directory, then removes it."""
    with _locked(leftover.path) as is_ours:
        if is_ours:
            processes = _at_work_in(leftover.path)
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=_DYING)
            shutil.rmtree(leftover.path, ignore_errors=True)


def clean() -> list[Leftover]:
    """Removes all leftovers and returns them."""
    found = find()
    for leftover in found:
        remove(leftover)
    return found


def allocated(directory: Path) -> int:
    """Returns the disk space that a directory uses (bytes); holes in files do not count.

    Files removed in the meantime do not count.
    """
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(folder) / name).st_blocks * 512
    return total


def die_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when its parent ends; does nothing if another process is its parent.

    Without it an xdist worker whose controller was killed runs on until execnet gives up.
    """
    if os.getppid() == parent:
        ctypes.CDLL(None, use_errno=True).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _is_writable(place: Path) -> bool:
    """Whether a file can be written there: neither the mode of a directory nor free space in it shows that."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=place) as file:
        file.write(b"\0")
        return True
    return False


def _make(place: Path | None) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        try:
            return path, _lock(path)
        except FileNotFoundError:
            continue  # another process removed it as a leftover before it was locked
        except BlockingIOError:
            with contextlib.suppress(OSError):
                path.rmdir()
        except OSError:
            return path, -1  # a file system without locks: there it cannot be taken for a leftover either


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Yields whether the directory is this user's and has no owner; it is locked within the context."""
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
        BlockingIOError: another process holds it.
        FileNotFoundError: the directory was removed.
        OSError: not a directory, or one that cannot be locked.
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
    """The processes whose working directory lies there: QEMU and its children work in a machine's directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(directory):
                found.append(process)
    return found
