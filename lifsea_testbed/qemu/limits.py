"""The limits of a machine's QEMU (getrlimit(2)), and what it means that one of them is reached."""

from __future__ import annotations

import errno
import os

from lifsea_testbed.errors import GuestFailure
from lifsea_testbed.support.confinement import Limits

#: The most that a guest may write to its disk, as the overlay's file (bytes): an upgrade writes one or two GiB.
DISK_QUOTA = 8 << 30
#: The reason that QEMU gives for a write beyond the limit (the event BLOCK_IO_ERROR of QMP).
TOO_LARGE = os.strerror(errno.EFBIG)
#: The address space of QEMU beside the guest's memory (bytes): the translation buffer of TCG (1 GiB at most), devices,
#: libraries; and for each virtual CPU its stack and its heap, which glibc reserves 128 MiB for.
_BESIDE_MEMORY, _PER_PROCESSOR = 4 << 30, 256 << 20
#: Threads and processes beside those of the virtual CPUs: workers for the disk (64 at most), connections to services.
_TASKS = 256
#: A dump of the guest's memory has so much beside the memory (bytes).
_HEAD_OF_DUMP = 1 << 30


def of_machine(*, memory: int, cpus: int, data_disk: int) -> Limits:
    """Returns the limits of a machine with so many MiB of memory, so many processors, and a data disk of so many GiB.

    The largest file is the largest of the overlay's quota, the data disk, and a dump of the memory.
    """
    return Limits(memory=(memory << 20) + _BESIDE_MEMORY + cpus * _PER_PROCESSOR, processes=_TASKS + cpus, files=4096,
                  file_size=max(DISK_QUOTA, data_disk << 30, (memory << 20) + _HEAD_OF_DUMP))  # fmt: skip


def disk_is_full(limits: Limits, evidence: str) -> GuestFailure:
    """Returns the error for a guest that wrote more to its disk than it may."""
    quota = f"{(limits.file_size or 0) / (1 << 30):.0f} GiB"
    return GuestFailure(f"the guest wrote more than {quota} to its disk", evidence=evidence,
                        expected=f"at most {quota} of the disk in use above the image",
                        hint="look for what fills the disk, such as a log; the host's disk is not full")  # fmt: skip
