"""Tools of the host that are run to their end, within a time."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from lifsea_testbed.errors import HostError


def run_tool(command: Sequence[str], *, within: float) -> subprocess.CompletedProcess[str]:
    """Runs a command, which gets no input, to its end, whatever its status, and returns status and output.

    Raises:
        HostError: it cannot be started, or did not end `within` so many seconds and was killed.
    """
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=within, errors="replace")  # fmt: skip
    except subprocess.TimeoutExpired as error:
        output = error.stderr if isinstance(error.stderr, str) else (error.stderr or b"").decode("utf-8", "replace")
        raise HostError(f"{command[0]} did not end within {within:.0f} s", evidence=f"{shlex.join(command)}\n{output}",
                        hint="the host is overloaded, or its disk does not answer") from None
    except OSError as error:
        raise HostError(f"{command[0]} cannot be started: {error.strerror or error}",
                        evidence=shlex.join(command)) from None
