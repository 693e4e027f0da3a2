"""The overlay: everything that a machine writes, in a throw-away file above the image."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.errors import HostError

#: The smallest system disk that ECS sells with a g7 (ESSD, 20 GiB): an image that is smaller has room to grow into.
SYSTEM_DISK = 20 << 30


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Disks (qcow2) between the image and a machine's overlay, the lowest first; logs of its writes and reads.

    The overlay is made anew; where a path is given it stays when the machine is gone.
    """

    below: tuple[Path, ...] = ()
    overlay: Path | None = None
    write_log: Path | None = None
    reads: Path | None = None


def create(path: Path, *, image_size: int) -> None:
    """Makes an empty overlay as large as the instance's system disk, or as the image if that is larger.

    It names no backing file: QEMU is told which image lies below, so nothing that the overlay says is followed.

    Raises:
        HostError: the disk is full, or qemu-img failed for another reason.
    """
    size = max(image_size, SYSTEM_DISK)
    made = subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size)],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        raise HostError(f"no overlay could be made in {path.parent}", evidence=made.stderr,
                        hint="free disk space, or set TMPDIR to another disk")


def create_data_disk(path: Path, *, size: int) -> Path | None:
    """Makes an empty data disk of so many GiB, which takes no room until it is written; none of a size of 0."""
    if not size:
        return None
    with path.open("wb") as file:
        file.truncate(size << 30)
    return path
