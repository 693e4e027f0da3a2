"""The cache of snapshots: each is made once, by one process at a time, and appears whole or not at all.

The cache is bounded in size: the least recently used snapshots are removed first, never one that a process uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.resources
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from lifsea_testbed.console import login, user_data
from lifsea_testbed.errors import HostError, TestbedError
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.snapshot import FACTS, FORMAT, Snapshot, load
from lifsea_testbed.qemu import command_line
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.firmware import FirmwareFiles
from lifsea_testbed.support.host import processor_name
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.private_dir import allocated

#: The disk space that all snapshots together may take (bytes): about twenty of them.
LIMIT = 10 << 30
#: How long to wait for a snapshot that another process makes (seconds): a first boot under emulation, and the queue.
_MAKING = 1800.0
_DIGITS = 16
#: The locks that processes hold on files (proc_locks(5)).
_LOCKS = Path("/proc/locks")
_PART, _GONE, _LOCK = ".part", ".gone", ".lock"
#: The key depends on the command line without the numbers of its file descriptors.
_PLACEHOLDERS = command_line.Descriptors(monitor=0, console=0, assistant=0, channel=0, image=0, overlay=0)


def directory() -> Path:
    """Returns the directory of the user's snapshots."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lifsea-testbed" / "templates"


def key(factory: MachineFactory) -> dict[str, str]:
    """Returns the facts that are equal in two runs whose machines differ in nothing but their identity."""
    placeholder = replace(factory.new_instance(), id="i-", uuid="", disk_serial="", mac="")
    command = command_line.command(factory.hardware(placeholder), _PLACEHOLDERS)
    access = factory.profile.access
    sent = user_data.user_data(command_line.CHANNEL_PORT, access) + login.typed(access)
    processor = "any" if factory.accelerator.kind is AcceleratorKind.TCG else processor_name()
    return {"format": str(FORMAT), "image": factory.image.sha256,
            "profile": _digest(factory.profile.model_dump_json().encode()),
            "command": _digest("\0".join(command).encode()), "user-data": _digest(sent), "cloud": _cloud(),
            "processor": processor, "instance": factory.instance_type.name, "memory": str(factory.context.memory),
            "qemu": factory.emulator.version, "accelerator": str(factory.accelerator.kind),
            **_firmware(factory.context.firmware_files)}  # fmt: skip


def _firmware(files: FirmwareFiles | None) -> dict[str, str]:
    """The digest of the firmware that a machine was saved with: its code, and the variables that it began with."""
    return {"firmware": _digest(files.code.read_bytes() + files.variables.read_bytes())} if files else {}


class SnapshotCache:
    """The snapshots in one directory; those that `get` returned are not removed until the context is left."""

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._used = contextlib.ExitStack()

    def __enter__(self) -> SnapshotCache:
        return self

    def __exit__(self, *_: object) -> None:
        """Allows other processes to remove the snapshots that were used here."""
        self._used.close()

    def get(self, key: Mapping[str, str], make: Callable[[Path], object],
            on_wait: Callable[[], object] = lambda: None) -> Snapshot:
        """Returns the snapshot of that key, made by `make(directory)` if there is none.

        `on_wait` is called if another process is making it.

        Raises:
            HostError: the cache cannot be written, or another process does not finish making it in time.
            Explained: raised by `make`.
        """
        final = self._path_of(key)
        with self._locked(final, on_wait):
            try:
                return self._use(final)
            except TestbedError:
                snapshot = self._make(final, make)
        self._evict()
        return snapshot

    def discard(self, snapshot: Snapshot) -> None:
        """Removes a snapshot that does not restore; processes that use it keep the files that they have open."""
        with self._locked(snapshot.directory):
            _remove(snapshot.directory)

    def _path_of(self, key: Mapping[str, str]) -> Path:
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
        return self._path / digest[:_DIGITS]

    @contextlib.contextmanager
    def _locked(self, final: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(final.with_suffix(_LOCK))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                on_wait()
                lock.acquire(timeout=_MAKING)
        except Timeout:
            raise _made_too_slowly(_holder(Path(lock.lock_file))) from None
        except OSError as error:
            raise self._unusable(error) from None
        try:
            yield
        finally:
            lock.release()

    def _use(self, directory: Path) -> Snapshot:
        """Loads a snapshot and keeps it from being removed for as long as this cache is in use.

        Raises:
            TestbedError: there is none that can be read, or another process is removing it.
        """
        with contextlib.ExitStack() as use:
            try:
                facts = use.enter_context((directory / FACTS).open("rb"))
                fcntl.flock(facts, fcntl.LOCK_SH | fcntl.LOCK_NB)
                os.utime(directory)
            except OSError as error:
                raise TestbedError(f"{directory} holds no snapshot: {error.strerror}") from None
            snapshot = load(directory)
            self._used.push(use.pop_all())
        return snapshot

    def _make(self, final: Path, make: Callable[[Path], object]) -> Snapshot:
        """Makes the snapshot under another name and renames it when it is whole; removes what a crash left before.

        It is in use before it has its name, so that no other process removes it in between.
        """
        part = final.with_suffix(_PART)
        try:
            _remove(part)
            _remove(final)
            part.mkdir(mode=0o700)
            make(part)
            snapshot = self._use(part)
            part.rename(final)
        except OSError as error:
            raise self._unusable(error) from error
        finally:
            _remove(part)
        return replace(snapshot, directory=final)

    def _evict(self) -> None:
        """Removes what crashes left, and then the least recently used snapshots, until the rest fits."""
        for part in self._path.glob(f"*{_PART}"):
            with contextlib.suppress(Timeout), FileLock(part.with_suffix(_LOCK)).acquire(timeout=0):
                _remove(part)
        for remnant in self._path.glob(f"*{_GONE}"):
            shutil.rmtree(remnant, ignore_errors=True)
        snapshots = sorted((_last_use(path), path) for path in self._path.iterdir() if (path / FACTS).exists())
        size = sum(allocated(path) for _, path in snapshots)
        for _, path in snapshots:
            if size <= self._limit:
                return
            before = allocated(path)
            if _remove_unless_used(path):
                size -= before

    def _unusable(self, error: OSError) -> HostError:
        return HostError(f"{self._path} cannot be used for snapshots: {error.strerror or error}",
                         hint="set XDG_CACHE_HOME, or use --cold")  # fmt: skip


def lock_holder(locks: str, inode: int) -> int | None:
    """Returns the process that holds the lock of flock(2) on that inode by the text of /proc/locks (proc_locks(5)).

    None if the table does not name it: a process of another PID namespace is listed as 0 or less, or not at all.
    """
    for line in split_lines(locks):
        # "2: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF"; a process that waits has "->" as its second word.
        match line.split():
            case [_, "FLOCK", _, _, pid, file, *_] if file.rpartition(":")[2] == str(inode) and int(pid) > 0:
                return int(pid)
    return None


def _holder(lock_file: Path) -> int | None:
    with contextlib.suppress(OSError):
        return lock_holder(_LOCKS.read_text("ascii"), lock_file.stat().st_ino)
    return None


def _made_too_slowly(holder: int | None) -> HostError:
    who, process = ("another process", "that process") if holder is None else (f"process {holder}",) * 2
    return HostError(f"{who} did not finish making the snapshot within {_MAKING:.0f} s",
                     hint=f"stop {process}, or use --cold")  # fmt: skip


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@functools.cache
def _cloud() -> str:
    """A digest of the code of the metadata service: its answers are in the memory of a saved guest."""
    files = (entry for entry in importlib.resources.files("lifsea_testbed.ecs").iterdir() if entry.is_file())
    return _digest(b"\0".join(entry.read_bytes() for entry in sorted(files, key=lambda entry: entry.name)))


def _last_use(path: Path) -> float:
    """When a snapshot was last used (seconds since the epoch); 0 if it was removed meanwhile."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _remove_unless_used(path: Path) -> bool:
    """Removes a snapshot that no process uses, makes or is about to use, and returns whether it did.

    Both locks are held until it has lost its name: a process that comes later finds no snapshot, never a part of one.
    """
    with contextlib.suppress(OSError, Timeout), FileLock(path.with_suffix(_LOCK)).acquire(timeout=0), \
            (path / FACTS).open("rb") as facts:  # fmt: skip
        fcntl.flock(facts, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
        return True
    return False


def _remove(path: Path) -> None:
    """Renames a directory before it removes it, so that no process sees a part of it; it may be gone already."""
    renamed = path.with_name(f"{path.name}-{uuid.uuid4().hex}{_GONE}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(renamed)
        shutil.rmtree(renamed, ignore_errors=True)
