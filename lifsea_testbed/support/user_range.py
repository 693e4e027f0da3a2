"""Users for confined programs: numbers that nobody else has on this host, each taken by one owner at a time.

A number is held by a socket with a name of its own in the abstract namespace (unix(7)): the kernel gives that name to
one process at a time, and frees it when the process ends, also by SIGKILL. No file is needed, and none is left behind.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.errors import HostError
from lifsea_testbed.support.deadline import Deadline

#: Beyond the users of a host and of its login services, of subordinate ranges by default (login.defs(5)) and of
#: systemd-nspawn's containers by name (systemd, UIDS-GIDS.md).
_FIRST, _COUNT = 2_097_152, 4096
_NAME = "\0lifsea-testbed/user/{}"
#: How long a killed process of an earlier owner may take to be gone, and the polling interval (seconds).
_DYING, _POLLING = 2.0, 0.005


@contextlib.contextmanager
def taken() -> Iterator[int]:
    """A user number, the same for the group, that nobody else has until the context is left; root only.

    No process has it at first: one that an earlier owner left is killed, and the number is left alone if it stays.

    Raises:
        HostError: every number is taken.
    """
    with contextlib.ExitStack() as held:
        yield _taken(held)


def of_this_host(uid_map: str) -> range:
    """Returns the numbers that may be taken where /proc/self/uid_map has that text (user_namespaces(7)).

    In a user namespace that lacks the usual ones they are the last ones that it has.
    """
    extents = [(int(first), int(count)) for first, _, count in (line.split() for line in uid_map.strip().split("\n"))]
    for first, count in extents:
        if first <= _FIRST and first + count >= _FIRST + _COUNT:
            return range(_FIRST, _FIRST + _COUNT)
    first, count = max(extents)
    return range(max(first, first + count - _COUNT, 1), first + count)


def processes_of(number: int) -> list[int]:
    """Returns the processes of that user, without those that have ended and that nobody has waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or is no process
            # Not the owner of the directory, which a process can hide (prctl(2), PR_SET_DUMPABLE).
            status = (entry / "status").read_text("ascii", "replace")
            if str(number) in status.partition("\nUid:")[2].split(maxsplit=4)[:4] and "\nState:\tZ" not in status:
                found.append(int(entry.name))
    return found


def _taken(held: contextlib.ExitStack) -> int:
    numbers = of_this_host(Path("/proc/self/uid_map").read_text("ascii"))
    for number in numbers:
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(_NAME.format(number))
        except OSError:
            lock.close()
            continue
        held.callback(lock.close)
        if not _has_name(number) and _is_free(number):
            return number
    raise HostError(f"no user number is free for a confined program ({numbers.start} to {numbers.stop - 1})",
                    expected="one number for each machine", hint="end other runs on this host")  # fmt: skip


def _has_name(number: int) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwuid(number))
    return False


def _is_free(number: int) -> bool:
    """Kills the processes that have the number; returns whether they are gone in time."""
    deadline = Deadline.after(_DYING)
    while left := processes_of(number):
        if deadline.expired:
            return False
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_POLLING)
    return True
