"""Host capacity: the memory and CPUs available to this process, and the number of xdist workers they suffice for.

Control groups may limit both at any level between a process's own group and the root: each one is read (cgroups(7)).
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from lifsea_testbed.support.lines import split_lines

#: Memory for QEMU itself beside the guest's, and for the rest of the host (MiB).
OVERHEAD = 512
#: Virtual CPUs for each CPU of the host: guests under test are mostly idle.
VCPUS_PER_CPU = 2
_ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class _Version:
    """The files of one version of control groups: memory limit, memory usage, and the name of reclaimable memory."""

    limit: str
    usage: str
    reclaimable: str


_VERSIONS = {
    "cgroup": _Version(limit="memory.limit_in_bytes", usage="memory.usage_in_bytes", reclaimable="total_inactive_file"),
    "cgroup2": _Version(limit="memory.max", usage="memory.current", reclaimable="inactive_file"),
}


def processor_name() -> str:
    """Returns the model name of the host's CPU, or the architecture if the kernel reports none."""
    with contextlib.suppress(OSError):
        for line in split_lines(Path("/proc/cpuinfo").read_text("utf-8", "replace")):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def available_memory(root: Path = _ROOT) -> int:
    """Returns the memory available to this process (MiB), limited by the host and by its control groups."""
    return min(psutil.virtual_memory().available, *_memory_left(root)) >> 20


def processors(root: Path = _ROOT) -> int:
    """Returns the number of CPUs available to this process, limited by affinity and control groups; at least one."""
    return max(1, int(min(len(os.sched_getaffinity(0)), *_quotas(root))))


def workers(*, processors: int, memory: int, guest_processors: int, guest_memory: int) -> int:
    """Returns for how many workers that many CPUs and MiB suffice, each with one guest of that size; at least one."""
    return max(1, min(processors * VCPUS_PER_CPU // guest_processors, memory // (guest_memory + OVERHEAD)))


def _memory_left(root: Path) -> Iterator[int]:
    """Yields the free bytes in each group above this process; reclaimable caches count as free."""
    yield psutil.virtual_memory().total
    for kind, group in _groups("memory", root):
        files = _VERSIONS[kind]
        with contextlib.suppress(OSError, ValueError):
            limit, used = int(_text(group / files.limit)), int(_text(group / files.usage))
            yield max(0, limit - used + _reclaimable(group, files.reclaimable))


def _reclaimable(group: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(dict(line.split() for line in split_lines(_text(group / "memory.stat")))[name])
    return 0


def _quotas(root: Path) -> Iterator[float]:
    """Yields the CPUs that the quota of each group above this process allows (CPU seconds per second)."""
    yield float("inf")
    for kind, group in _groups("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = _text(group / "cpu.max").split() if kind == "cgroup2" else (
                _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))  # fmt: skip
            if int(quota) > 0:  # no limit is "max", which is not a number, or -1
                yield int(quota) / int(period)


def _groups(controller: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yields version and directory of this process's groups of that controller, from its own one upward."""
    with contextlib.suppress(OSError, ValueError):
        own = _own_groups(_text(root / "proc/self/cgroup"))
        for line in split_lines(_text(root / "proc/self/mountinfo")):
            fields, _, rest = line.partition(" - ")
            top, mount = fields.split()[3:5]
            kind, _, options = rest.split()[:3]
            path = own.get("" if kind == "cgroup2" else controller)
            if path is None or not (kind == "cgroup2" or (kind == "cgroup" and controller in options.split(","))):
                continue
            yield from ((kind, directory) for directory in _upward(root / mount.lstrip("/"), path, top))


def _own_groups(table: str) -> dict[str, str]:
    """Controller → path of its group, from /proc/self/cgroup; version 2 has one group and an empty name."""
    found: dict[str, str] = {}
    for line in split_lines(table):
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _upward(mount: Path, path: str, top: str) -> Iterator[Path]:
    """Yields the directories from a group up to the mount point, which shows the groups below `top` only."""
    below = path[len(top):] if path.startswith(top) else ""
    directory = mount / below.strip("/")
    if ".." in directory.parts or not directory.is_dir():
        directory = mount
    yield from (place for place in (directory, *directory.parents) if place.is_relative_to(mount))


def _text(path: Path) -> str:
    return path.read_text("ascii", "replace").strip()
