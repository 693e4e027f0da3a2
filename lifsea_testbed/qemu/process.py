"""The QEMU process: started confined, watched from its start, killed when its owner ends."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from lifsea_testbed.errors import EmulatorFailed, HostError, LaunchError
from lifsea_testbed.qemu.processor_share import ProcessorShare
from lifsea_testbed.support.confined_process import ConfinedProcess
from lifsea_testbed.support.confinement import UNLIMITED, Confinement, Limits
from lifsea_testbed.support.host_limits import hint_for
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.sanitize import printable

#: How much of QEMU's output an error shows (bytes).
_STDERR_SHOWN = 4000
#: How long a killed process may take to be gone (seconds).
_DYING = 30.0
#: The signals that a faulty program raises in itself; SIGKILL and SIGTERM come from other processes.
_OWN_ERRORS = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


class QemuProcess:
    """One running QEMU, confined, in a working directory; `on_exit` is called from a thread when it has ended."""

    def __init__(self, command: Sequence[str], *, directory: Path, inherit: Sequence[int], confinement: Confinement,
                 on_exit: Callable[[QemuProcess], None], limits: Limits = UNLIMITED) -> None:
        self.command = tuple(command)
        try:
            self._process = ConfinedProcess(command, confinement, directory=directory, kept=_STDERR_SHOWN,
                                            inherit=inherit, limits=limits)  # fmt: skip
        except OSError as error:
            raise LaunchError(f"QEMU cannot be started: {error.strerror or error}", evidence=shlex.join(command)) \
                from None
        #: The processor time that the host gives to its threads, and withholds from them.
        self.share = ProcessorShare(self.pid)
        self._on_exit = on_exit
        self._watcher = threading.Thread(target=self._watch, name="qemu-exit", daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        """The process identifier on the host."""
        return self._process.pid

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        return self._process.status is not None

    @property
    def ended_well(self) -> bool:
        """Whether it has ended with status 0: the guest went down, or QEMU was told to end."""
        return self._process.status == 0

    def state(self) -> str:
        """The state of the process as the kernel reports it (proc(5): running, sleeping, stopped, …)."""
        with contextlib.suppress(OSError):
            lines = split_lines(Path(f"/proc/{self.pid}/status").read_text("utf-8"))
            return next((line for line in lines if line.startswith("State:")), "")
        return describe_exit(self._process.status)

    def threads_on_host(self, numbers: Collection[int]) -> set[int]:
        """Returns the threads that have these numbers in QEMU's own namespace, by their numbers on the host."""
        found = set()
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError):  # it has ended
                on_host, *_, own = _numbers(thread)
                if own in numbers:
                    found.add(on_host)
        return found

    def processor_time(self) -> float:
        """The CPU time that it has used on the host (seconds)."""
        return processor_time(self.pid)

    def stderr(self) -> str:
        """The last 4000 bytes of its standard output and standard error, printable."""
        return printable(self._process.output())

    def exit_error(self) -> LaunchError:
        """The error for its end: exit status or signal, with its command line and its output as evidence."""
        status = self._process.status
        happened, evidence = f"QEMU {describe_exit(status)}", f"{shlex.join(self.command)}\n{self.stderr()}"
        if -(status or 0) in _OWN_ERRORS:
            return EmulatorFailed(happened, evidence=evidence, hint="a fault of QEMU itself: try another version of it")
        if (status or 0) < 0:
            return LaunchError(happened, evidence=evidence,
                               hint="another process killed it; the host may be out of memory: see its kernel log")
        return LaunchError(happened, evidence=evidence, hint=hint_for(self.stderr(),
                           "see QEMU's message below its command line; the host may be out of memory or disk"))

    def kill(self) -> None:
        """Kills it and returns when it is gone.

        Raises:
            HostError: the host's kernel does not end it.
        """
        self._process.send(signal.SIGKILL)
        if not self.wait(_DYING):
            raise HostError(f"QEMU (process {self.pid}) is not gone {_DYING:.0f} s after SIGKILL",
                            evidence=self.state(),
                            hint="it waits for a disk or a device of the host that does not answer")  # fmt: skip
        self._process.close()

    def wait(self, seconds: float) -> bool:
        """Waits at most that long for its end, and returns whether it ended."""
        if not self._process.wait(seconds):
            return False
        self._watcher.join(_DYING)
        return True

    def _watch(self) -> None:
        self._process.wait(None)
        self.share.close()
        self._on_exit(self)


def _numbers(thread: Path) -> list[int]:
    """A thread's numbers in the namespaces that it is in, the outermost first, twice if it is in that alone."""
    _, _, line = (thread / "status").read_text("utf-8", "replace").partition("\nNSpid:")
    numbers = [int(word) for word in line.partition("\n")[0].split()]
    return numbers * 2 if len(numbers) == 1 else numbers


def processor_time(process: int) -> float:
    """Returns the CPU time that a process has used (seconds; proc(5): utime and stime)."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def describe_exit(status: int | None) -> str:
    """Returns how a process ended, in words; a negative status is a signal as in `subprocess`."""
    if status is None:
        return "is running"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
