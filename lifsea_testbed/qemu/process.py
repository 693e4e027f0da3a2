"""The QEMU process: started confined, watched from its first moment, gone when its owner is gone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lifsea_testbed.errors import EmulatorFailed, LaunchError
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.sanitize import printable

_STDERR_SHOWN = 4000
#: The signals by which a program ends that finds itself in error; from elsewhere come SIGKILL and SIGTERM.
_OWN_ERRORS = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


class QemuProcess:
    """One running QEMU in a directory of its own; `on_exit` is called, from a thread, when it has ended."""

    def __init__(self, command: Sequence[str], *, directory: Path, inherit: Sequence[int], confinement: Confinement,
                 on_exit: Callable[[QemuProcess], None]) -> None:
        self.command = tuple(command)
        self._stderr = directory / "qemu.stderr"
        with self._stderr.open("ab") as stderr:
            self._process = starter().submit(
                subprocess.Popen, confinement.wrap(list(command)), cwd=directory, pass_fds=inherit,
                stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
            ).result()
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

    def state(self) -> str:
        """What the kernel says that the process is doing (proc(5): running, sleeping, stopped, …)."""
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{self.pid}/status").read_text("utf-8").splitlines()
            return next((line for line in lines if line.startswith("State:")), "")
        return describe_exit(self._process.poll())

    def processor_time(self) -> float:
        """How much of the host's processors it has used (seconds)."""
        return processor_time(self.pid)

    def stderr(self) -> str:
        """The end of what it wrote on its standard streams."""
        return printable(self._stderr.read_bytes()[-_STDERR_SHOWN:]) if self._stderr.exists() else ""

    def exit_error(self) -> LaunchError:
        """The error that tells how it ended: exit status or signal, and what it said."""
        status, hint = self._process.returncode, "see the command line in the evidence"
        if -(status or 0) in _OWN_ERRORS:
            return EmulatorFailed(f"QEMU {describe_exit(status)}", evidence=self.stderr(), hint=hint)
        return LaunchError(f"QEMU {describe_exit(status)}", evidence=self.stderr(),
                           hint=f"the host may be out of memory or disk; {hint}")

    def kill(self) -> None:
        """Ends it at once, and returns when it is gone."""
        self._process.kill()
        self._process.wait()
        self._watcher.join()

    def wait(self, seconds: float) -> bool:
        """Waits for its end that long at most and returns whether it came."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._watcher.join()
        return True

    def _watch(self) -> None:
        self._process.wait()
        self._on_exit(self)


@functools.cache
def starter() -> concurrent.futures.ThreadPoolExecutor:
    """Returns the one thread that starts every process of the test bed, and ends with this process alone.

    The kernel kills a child that asked for it when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG): one
    that a passing thread had started would be gone with that.
    """
    return concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="qemu-start")


def processor_time(process: int) -> float:
    """Returns how much of the host's processors a process has used (seconds; proc(5): utime and stime)."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def describe_exit(status: int | None) -> str:
    """Returns how a process ended, in words; a negative status is a signal as in `subprocess`."""
    if status is None:
        return "is running"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
