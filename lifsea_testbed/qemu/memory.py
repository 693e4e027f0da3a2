"""A machine's memory in a file: what makes it possible to save a machine in a moment, and to restore many of it.

With the capability `x-ignore-shared` QEMU leaves memory that it shares with a file out of the stream of a migration:
what is saved is the state of the devices, a few MiB, and the file is the rest. A machine that is restored maps the file
privately: pages are read from it as the guest touches them, those that it writes become its own, and the others are
one and the same in all machines that were restored from it.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.errors import HostError


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The file that a machine's memory lies in, and the state of its devices if it does not start from its firmware.

    With `copied` the file stays as it is and what the machine writes is its own; without it is written, and the
    machine can be saved.
    """

    path: Path
    copied: bool = False
    state: Path | None = None


def create(path: Path, *, size: int) -> None:
    """Makes a file for that much memory (MiB); it takes room on disk as the guest touches it."""
    with path.open("xb") as file:
        file.truncate(size << 20)


def copy(source: Path, target: Path) -> None:
    """Copies a file with its holes, by reference where the file system can.

    Raises:
        HostError: there is no room.
    """
    command = ["cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode", str(source), str(target)]
    copied = subprocess.run(command, capture_output=True, text=True, check=False)
    if copied.returncode:
        raise HostError(f"{target} could not be written", evidence=copied.stderr, hint="free disk space")
