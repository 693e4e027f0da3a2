"""A program of the control plane: started confined, gone when its owner is gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lifsea_testbed.errors import LaunchError
from lifsea_testbed.qemu.process import describe_exit, processor_time, starter
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.sanitize import printable

_SHOWN = 3000
#: How long a program that was asked to end may take before it is made to (seconds).
_ENDING = 5.0


class ControlPlaneProgram:
    """One running program in a directory of its own; it ends with the context, and with this process."""

    def __init__(self, path: Path, options: Sequence[str], *, directory: Path, confinement: Confinement) -> None:
        self.name = path.name
        self._said = directory / f"{path.name}.log"
        # The confined user need not be able to reach the directory that the program lies in.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            command = confinement.wrap([f"/proc/self/fd/{descriptor}", *options])
            with self._said.open("ab") as said:
                self._process = starter().submit(
                    subprocess.Popen, command, cwd=directory, pass_fds=[descriptor], stdin=subprocess.DEVNULL,
                    stdout=said, stderr=said,
                ).result()
        finally:
            os.close(descriptor)

    def __enter__(self) -> ControlPlaneProgram:
        """It runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it, by force if need be, and returns when it is gone."""
        self._process.terminate()
        try:
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def processor_time(self) -> float:
        """Returns how much of the host's processors it has used (seconds)."""
        return processor_time(self._process.pid)

    @property
    def said(self) -> str:
        """The end of what it wrote."""
        return printable(self._said.read_bytes()[-_SHOWN:])

    def require(self) -> None:
        """Makes sure that it runs.

        Raises:
            LaunchError: it has ended.
        """
        status = self._process.poll()
        if status is not None:
            raise LaunchError(f"{self.name} {describe_exit(status)}", expected="it runs until the cluster ends",
                              evidence=self.said, hint="the host may be out of memory or disk")  # fmt: skip
