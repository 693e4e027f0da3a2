"""The one place where programs of the host are started: run to their end within a time, or started and watched.

None of them gets this process's environment.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import shlex
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from lifsea_testbed.errors import HostError
from lifsea_testbed.support.host_limits import hint_for

#: How long the last output of a program that has ended may take to arrive (seconds).
_LAST_OUTPUT = 1.0
_CHUNK = 1 << 16

#: For the error output of a program that is not to be one pipe with its output: a pipe of its own, or none.
PIPE, NOWHERE = subprocess.PIPE, subprocess.DEVNULL
#: A program that has ended, with its status and its output.
Ended = subprocess.CompletedProcess[str]
#: A program that was started.
Started = subprocess.Popen[bytes]


class Late(HostError):
    """A program did not end in time and was killed."""


def clean_environment(*kept: str) -> dict[str, str]:
    """Returns the environment of a program that is started: where programs are, the locale C.UTF-8, what is `kept`.

    Nothing else of this process's environment is in it: no password, no token of a CI system.
    """
    further = {name: os.environ[name] for name in kept if name in os.environ}
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **further}


def run_tool(command: Sequence[str], *, within: float, input: str = "", directory: Path | None = None,
             inherit: Sequence[int] = (), kept: Sequence[str] = ()) -> Ended:
    """Runs a command to its end, whatever its status, and returns status and output; see `clean_environment`.

    Raises:
        Late: it did not end `within` so many seconds.
        HostError: it cannot be started.
    """
    try:
        return subprocess.run(command, input=input, capture_output=True, text=True, errors="replace", check=False,
                              timeout=within, cwd=directory, pass_fds=inherit, env=clean_environment(*kept))
    except subprocess.TimeoutExpired as error:
        output = b"".join(text if isinstance(text, bytes) else (text or "").encode()
                          for text in (error.stdout, error.stderr))  # fmt: skip
        raise Late(f"{command[0]} did not end within {within:.0f} s",
                   evidence=f"{shlex.join(command)}\n{output[-_CHUNK:].decode('utf-8', 'replace')}",
                   hint="the host is overloaded, or its disk does not answer") from None  # fmt: skip
    except OSError as error:
        reason = error.strerror or str(error)
        raise HostError(f"{command[0]} cannot be started: {reason}", evidence=shlex.join(command),
                        hint=hint_for(reason)) from None  # fmt: skip


def start(command: Sequence[str], *, directory: Path, inherit: Sequence[int] = (), stdin: int = subprocess.DEVNULL,
          stdout: int | IO[bytes] = subprocess.PIPE, stderr: int | IO[bytes] = subprocess.STDOUT) -> Started:
    """Starts a command with these descriptors; by default its output and its error output are one pipe.

    Raises:
        OSError: it cannot be started.
    """
    return starter().submit(
        subprocess.Popen, command, cwd=directory, pass_fds=inherit, stdin=stdin, stdout=stdout, stderr=stderr,
        env=clean_environment(),
    ).result()  # fmt: skip


@functools.cache
def starter() -> concurrent.futures.ThreadPoolExecutor:
    """Returns the one thread that starts every process of the test bed; it lives as long as this process.

    The kernel sends the signal of PR_SET_PDEATHSIG (prctl(2)) when the thread that started the child ends: a child
    started by a short-lived thread would be killed with that thread.
    """
    return concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


def wait(process: Started, seconds: float | None) -> bool:
    """Waits at most that long for the end of a program, and returns whether it ended; None is no limit."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


class OutputTail:
    """Reads a program's output from its pipe until its end, in a thread, and keeps the last bytes of it."""

    def __init__(self, pipe: IO[bytes], *, kept: int) -> None:
        self._kept, self._tail = kept, b""
        self._thread = threading.Thread(target=self._read, args=(pipe,), name="output", daemon=True)
        self._thread.start()

    def last(self, *, ended: bool) -> bytes:
        """Returns the last bytes; of a program that has ended, the last ones that it wrote."""
        if ended:
            self._thread.join(_LAST_OUTPUT)
        return self._tail

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), _CHUNK):
                self._tail = (self._tail + chunk)[-self._kept :]
