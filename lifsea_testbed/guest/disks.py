"""The disks: whether the root partition and its file system fill the system disk, and which disks there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from lifsea_testbed.errors import GuestFailure
from lifsea_testbed.guest import kernel_files
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.guest.files import KERNEL_INTERFACES
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell

_SECTOR = 512
_SIZES = """
set -eu
partition=$(readlink -f /sys/dev/block/{device})
disk=${{partition%/*}}
[ -e "$disk/size" ] || disk=$partition
cat "$disk/size" "$partition/size"
cat "$partition/start" 2>/dev/null || echo 0
stat -f -c '%b %S' {point}
"""
_SERIALS = 'for disk in /sys/block/vd*; do echo "${disk##*/} $(cat "$disk/serial")"; done'
_VAR = "df --output=target,pcent,avail --block-size=1M /var | tail -n 1"
#: A file system is full from this percentage on.
_FULL = 95


@dataclass(frozen=True, kw_only=True)
class RootDisk:
    """Sizes in bytes: the disk, the offset at which the root partition ends, the partition, its file system."""

    disk: int
    partition_end: int
    partition: int
    file_system: int

    @property
    def unused(self) -> int:
        """Bytes behind the root partition that no partition uses."""
        return self.disk - self.partition_end

    @property
    def filled(self) -> float:
        """The share of the partition that the file system spans (its own tables, about 2 %, are not counted)."""
        return self.file_system / self.partition


#: The superblock counts the errors since the last check of the file system (ext4's sysfs).
_ERRORS = """
for file in /sys/fs/ext4/*/errors_count; do
    [ -f "$file" ] && name="${file%/*}" && echo "${name##*/}: $(cat "$file")"
done
exit 0
"""


class Disks:
    """The virtio disks, and the file systems on the system disk."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def root(self) -> RootDisk:
        """Returns the sizes of the disk that the system runs from.

        Raises:
            GuestFailure: neither /sysroot nor / is mounted from a disk.
        """
        point, device = root_mount(self._mounts())
        answer = self._shell.run(_SIZES.format(device=device, point=point))
        with readable(answer, expected="five numbers: disk, partition, start, blocks, size of a block"):
            return parse_sizes(answer.stdout)

    def writable_mounts_outside(self, directories: Iterable[str]) -> list[str]:
        """Returns the mount points, outside of those directories, of file systems that can be written to, sorted.

        By the kernel's own table of mounts. The kernel's interfaces do not count, nor does what is mounted inside one
        of the directories as well, as ostree mounts /var below /sysroot.
        """
        return parse_writable(self._mounts(), directories)

    def by_serial(self) -> dict[str, str]:
        """Returns the virtio disks by their serial: device name as in /dev."""
        pairs = (line.partition(" ") for line in self._shell.run(_SERIALS).lines)
        return {serial: name for name, _, serial in pairs}

    def damage(self) -> list[str]:
        """Returns the mounted ext4 file systems that found errors in themselves, with their number (ext4(5))."""
        return [line for line in self._shell.run(_ERRORS).lines if not line.endswith(": 0")]

    def _mounts(self) -> str:
        return self._shell.run(kernel_files.shown("/proc/self/mountinfo")).stdout

    def full_var(self) -> str:
        """Returns a sentence on the space left in /var if 95 % or more of it are used; empty otherwise."""
        fields = self._shell.run(_VAR, check=False).stdout.split()
        if len(fields) != 3 or not re.fullmatch(r"[0-9]{1,3}%", fields[1]) or int(fields[1].rstrip("%")) < _FULL:
            return ""
        return f"/var is full: {fields[2]} MiB are left"


def parse_writable(mountinfo: str, directories: Iterable[str]) -> list[str]:
    """Reads /proc/PID/mountinfo (proc(5)): mount points whose mount and file system are writable, outside of those."""
    places = [PurePosixPath(directory) for directory in directories]
    found = [row for row in map(str.split, split_lines(mountinfo)) if _is_writable(row)]
    inside = [row for row in found if any(PurePosixPath(row[4]).is_relative_to(place) for place in places)]
    shown = {(row[2], row[3]) for row in inside}
    return sorted({row[4] for row in found if (row[2], row[3]) not in shown})


def _is_writable(row: list[str]) -> bool:
    if len(row) < 10 or "-" not in row or row[row.index("-") + 1] in KERNEL_INTERFACES:
        return False
    return "rw" in row[5].split(",") and "rw" in row[-1].split(",")


def parse_sizes(text: str) -> RootDisk:
    """Reads the sizes of disk and partition, the partition's start (sectors), its blocks, and the size of a block.

    Raises:
        ValueError: these are not five numbers, or the partition does not lie on the disk.
    """
    disk, partition, start, blocks, block_size = map(int, text.split())
    if not (0 < partition <= start + partition <= disk and blocks >= 0 and block_size > 0):
        raise ValueError("the partition does not lie on the disk")
    return RootDisk(disk=disk * _SECTOR, partition_end=(start + partition) * _SECTOR, partition=partition * _SECTOR,
                    file_system=blocks * block_size)  # fmt: skip


def root_mount(mountinfo: str) -> tuple[str, str]:
    """Returns the mount point and MAJOR:MINOR of the root file system: /sysroot's where ostree has it, else that of /.

    Raises:
        GuestFailure: neither comes from a block device (proc(5): major 0 is a file system without one).
    """
    devices = {row[4]: row[2] for row in map(str.split, split_lines(mountinfo)) if len(row) > 4}
    for point in ("/sysroot", "/"):
        if not devices.get(point, "0:0").startswith("0:"):
            return point, devices[point]
    raise GuestFailure("neither /sysroot nor / is mounted from a disk", evidence=mountinfo)
