"""Shared and exclusive use of this host: what is timed runs while no other test or command drives a machine.

Two locks of flock(2), each on a file that all processes of the host open. Shared use passes the gate and holds the
host; exclusive use holds both. So nobody new comes in while exclusive use waits for those who are in, and it cannot
wait for ever while others come and go. Nobody waits for a lock while it holds the host's, so no two processes wait for
each other; a lock ends with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from lifsea_testbed.errors import HostError, NotJudged, Reason
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.private_dir import IN_MEMORY

#: How long to wait for the others (seconds): their longest tests are sweeps of power cuts.
_PATIENCE, _POLLING = 3600.0, 0.02
_GATE, _HOST = "lifsea-testbed-gate.lock", "lifsea-testbed-host.lock"
#: Any process may lock a file that it can read.
_MODE = 0o644


class HostUse:
    """This process's use of the host; `announce` is called with a line when it has to wait.

    Where it does not `apply`, nothing waits: under emulation instructions are counted, whatever else the host does.
    """

    def __init__(self, *, applies: bool, announce: Callable[[str], None] = lambda line: None,
                 directory: Path = IN_MEMORY) -> None:
        self._applies, self._announce = applies, announce
        self._directory = directory
        self._is_shared = self._is_exclusive = False
        self._files = contextlib.ExitStack()
        self._opened: tuple[int, int] | None = None

    def share(self) -> None:
        """Takes shared use, until `leave`; does nothing if this process has it already.

        Raises:
            HostError: another process kept exclusive use for too long, or the locks cannot be opened.
        """
        if not self._applies or self._is_shared or self._is_exclusive:
            return
        gate, host = self._locks()
        deadline = Deadline.after(_PATIENCE)
        if not self._acquire(gate, fcntl.LOCK_SH, deadline, "waiting: another process measures times on this host"):
            raise HostError(f"another process kept this host to itself for {deadline.allowance:.0f} s",
                            hint=f"end it: `fuser {self._directory / _GATE}` names it")
        try:
            # Whoever has exclusive use holds the gate as well.
            fcntl.flock(host, fcntl.LOCK_SH)
            self._is_shared = True
        finally:
            fcntl.flock(gate, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Ends shared use."""
        if self._is_shared:
            fcntl.flock(self._locks()[1], fcntl.LOCK_UN)
            self._is_shared = False

    @contextlib.contextmanager
    def exclusive(self, what: str) -> Iterator[None]:
        """Exclusive use, for what is timed; shared use, if this process has it, is given up before and taken again.

        Raises:
            NotJudged: the others did not leave in time.
            HostError: the locks cannot be opened.
        """
        if not self._applies or self._is_exclusive:
            yield
            return
        shared = self._is_shared
        self.leave()
        try:
            self._enter(what)
            yield
        finally:
            for lock in reversed(self._locks()):
                fcntl.flock(lock, fcntl.LOCK_UN)
            self._is_exclusive = False
            if shared:
                self.share()

    def close(self) -> None:
        """Gives up everything."""
        self._files.close()
        self._is_shared = self._is_exclusive = False
        self._opened = None

    def _enter(self, what: str) -> None:
        deadline, waiting = Deadline.after(_PATIENCE), f"waiting for other tests on this host to end, to time {what}"
        if not all(self._acquire(lock, fcntl.LOCK_EX, deadline, waiting) for lock in self._locks()):
            raise NotJudged(f"this host did not become free within {deadline.allowance:.0f} s, to time {what}",
                            Reason.HOST)
        self._is_exclusive = True

    def _acquire(self, lock: int, kind: int, deadline: Deadline, waiting: str) -> bool:
        """Waits for a lock and returns whether it was had in time."""
        pause, announced = threading.Event(), False
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                return True
            if deadline.expired:
                return False
            if not announced:
                self._announce(waiting)
                announced = True
            pause.wait(min(_POLLING, deadline.remaining))

    def _locks(self) -> tuple[int, int]:
        """The descriptors of the two files, the gate's first."""
        if self._opened is None:
            self._opened = self._open(_GATE), self._open(_HOST)
        return self._opened

    def _open(self, name: str) -> int:
        path = self._directory / name
        try:
            # Created apart from being opened: in a sticky directory a file of another user is not opened with O_CREAT
            # (sysctl fs.protected_regular).
            with contextlib.suppress(FileExistsError):
                created = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
                os.fchmod(created, _MODE)
                os.close(created)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise HostError(f"{path} cannot be opened, which keeps tests and timed tests apart: {error.strerror}",
                            hint="remove it, or make it readable for everybody") from None
        self._files.callback(os.close, descriptor)
        return descriptor
