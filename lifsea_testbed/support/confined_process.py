"""A confined program that runs for as long as its owner wants, watched by its number on the host."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from lifsea_testbed.support import programs
from lifsea_testbed.support.confinement import UNLIMITED, Confinement, Limits, exit_status, places_of, process_in
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.polling import wait_for_ready
from lifsea_testbed.support.programs import OutputTail, Started

#: How long a new process may take to be confined (seconds).
_STARTING = 30.0
#: Written to the standard input when the process is confined; the command has nothing to read there.
_CONFINED = ["sh", "-c", 'echo >&0 && exec "$0" "$@" </dev/null']


class ConfinedProcess:
    """A command that was started confined in a working directory; its last output is kept.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], confinement: Confinement, *, directory: Path, kept: int,
                 inherit: Sequence[int] = (), limits: Limits = UNLIMITED, readable: Sequence[Path] = (),
                 writable: Sequence[Path] = (), network: bool = False) -> None:
        wrapped = confinement.wrap([*_CONFINED, *command], limits=limits, directory=directory,
                                   readable=[*readable, *places_of(command[0])], writable=writable,
                                   network=network)  # fmt: skip
        self._started, self.pid = _started(wrapped, directory, inherit)
        #: Refers to this process alone, also when its number has been given to another one.
        self._descriptor = os.pidfd_open(self.pid)
        assert self._started.stdout is not None
        self._output = OutputTail(self._started.stdout, kept=kept)

    @property
    def status(self) -> int | None:
        """How it ended, as in `subprocess`: a negative status is a signal; None while it runs."""
        return exit_status(self._started.poll())

    def output(self) -> bytes:
        """The last bytes of its standard output and standard error."""
        return self._output.last(ended=self.status is not None)

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal, unless it has ended."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._descriptor, number)

    def wait(self, seconds: float | None) -> bool:
        """Waits at most that long, or for as long as it runs, and returns whether it ended."""
        return programs.wait(self._started, seconds)

    def close(self) -> None:
        """Releases what refers to a process that has ended; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _started(wrapped: Sequence[str], directory: Path, inherit: Sequence[int]) -> tuple[Started, int]:
    """Returns the process that was started, and the number of the one that the command became."""
    reading, writing = os.pipe()
    try:
        try:
            process = programs.start(wrapped, directory=directory, inherit=inherit, stdin=writing)
        finally:
            os.close(writing)
        is_confined = wait_for_ready(Deadline.after(_STARTING), reading) and os.read(reading, 1)
    finally:
        os.close(reading)
    return process, process_in(process.pid) if is_confined else process.pid
