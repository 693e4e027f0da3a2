"""The QEMU process: started confined, watched from its start, killed when its owner ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from lifsea_testbed.errors import EmulatorFailed, HostError, LaunchError
from lifsea_testbed.qemu.processor_share import ProcessorShare
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.sanitize import printable

#: How much of QEMU's output an error shows (bytes).
_STDERR_SHOWN = 4000
#: How long a killed process may take to be gone (seconds).
_DYING = 30.0
#: The signals that a faulty program raises in itself; SIGKILL and SIGTERM come from other processes.
_OWN_ERRORS = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


class QemuProcess:
    """One running QEMU in a directory of its own; `on_exit` is called from a thread when it has ended."""

    def __init__(self, command: Sequence[str], *, directory: Path, inherit: Sequence[int], confinement: Confinement,
                 on_exit: Callable[[QemuProcess], None]) -> None:
        self.command = tuple(command)
        self._stderr = directory / "qemu.stderr"
        with self._stderr.open("ab") as stderr:
            self._process = _started(confinement.wrap(list(command)), directory, inherit, stderr)
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
        return self._process.poll() is not None

    @property
    def ended_well(self) -> bool:
        """Whether it has ended with status 0: the guest went down, or QEMU was told to end."""
        return self._process.poll() == 0

    def state(self) -> str:
        """The state of the process as the kernel reports it (proc(5): running, sleeping, stopped, …)."""
        with contextlib.suppress(OSError):
            lines = split_lines(Path(f"/proc/{self.pid}/status").read_text("utf-8"))
            return next((line for line in lines if line.startswith("State:")), "")
        return describe_exit(self._process.poll())

    def processor_time(self) -> float:
        """The CPU time that it has used on the host (seconds)."""
        return processor_time(self.pid)

    def stderr(self) -> str:
        """The last 4000 bytes of its standard output and standard error, printable."""
        return printable(self._stderr.read_bytes()[-_STDERR_SHOWN:]) if self._stderr.exists() else ""

    def exit_error(self) -> LaunchError:
        """The error for its end: exit status or signal, with its command line and its output as evidence."""
        status = self._process.returncode
        happened, evidence = f"QEMU {describe_exit(status)}", f"{shlex.join(self.command)}\n{self.stderr()}"
        if -(status or 0) in _OWN_ERRORS:
            return EmulatorFailed(happened, evidence=evidence, hint="a fault of QEMU itself: try another version of it")
        if (status or 0) < 0:
            return LaunchError(happened, evidence=evidence,
                               hint="another process killed it; the host may be out of memory: see its kernel log")
        return LaunchError(happened, evidence=evidence,
                           hint="see QEMU's message below its command line; the host may be out of memory or disk")

    def kill(self) -> None:
        """Kills it and returns when it is gone.

        Raises:
            HostError: the host's kernel does not end it.
        """
        self._process.kill()
        if not self.wait(_DYING):
            raise HostError(f"QEMU (process {self.pid}) is not gone {_DYING:.0f} s after SIGKILL",
                            evidence=self.state(),
                            hint="it waits for a disk or a device of the host that does not answer")  # fmt: skip

    def wait(self, seconds: float) -> bool:
        """Waits at most that long for its end, and returns whether it ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._watcher.join(_DYING)
        return True

    def _watch(self) -> None:
        self._process.wait()
        self.share.close()
        self._on_exit(self)


def _started(command: list[str], directory: Path, inherit: Sequence[int],
             stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return starter().submit(subprocess.Popen, command, cwd=directory, pass_fds=inherit, stdin=subprocess.DEVNULL,
                                stdout=stderr, stderr=stderr).result()  # fmt: skip
    except OSError as error:
        raise LaunchError(f"QEMU cannot be started: {error.strerror or error}", evidence=shlex.join(command)) from None


@functools.cache
def starter() -> concurrent.futures.ThreadPoolExecutor:
    """Returns the one thread that starts every process of the test bed; it lives as long as this process.

    The kernel sends the signal of PR_SET_PDEATHSIG (prctl(2)) when the thread that started the child ends: a child
    started by a short-lived thread would be killed with that thread.
    """
    return concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="qemu-start")


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
