"""Runs the programs of a recipe, and shows the last lines of the output of one that fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from images.errors import BuildError

_SHOWN = 15


def run(*command: str | Path, cwd: Path | None = None, given: str | None = None,
        environment: Mapping[str, str] | None = None) -> str:
    """Runs a program and returns its standard output.

    Raises:
        BuildError: the program is missing, or its exit status is not 0; with the last lines of its output.
    """
    program = str(command[0])
    try:
        done = subprocess.run([str(part) for part in command], cwd=cwd, input=given, text=True, errors="replace",
                              env={**os.environ, "LC_ALL": "C", **(environment or {})}, capture_output=True,
                              check=False)  # fmt: skip
    except FileNotFoundError:
        raise BuildError(f"{program} was not found; ci/setup installs what images are built with") from None
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-_SHOWN:]
        raise BuildError("\n".join([f"{program} ended with status {done.returncode}; its last lines:", *last]))
    return done.stdout
