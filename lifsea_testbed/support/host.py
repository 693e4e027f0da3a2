"""What the host can still give: memory and processors, limits of control groups included, and the workers they bear.

A limit may stand anywhere between a process's own group and the root: each group above it counts (cgroups(7)).
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

#: QEMU's own memory beside the guest's, and what the rest of the host must keep (MiB).
OVERHEAD = 512
#: So many virtual processors share one of the host's: a guest under test waits more than it computes.
SHARED = 2
_ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class _Version:
    """The files of one version's control groups: what memory they allow, use, and could give back."""

    limit: str
    usage: str
    reclaimable: str


_VERSIONS = {
    "cgroup": _Version(limit="memory.limit_in_bytes", usage="memory.usage_in_bytes", reclaimable="total_inactive_file"),
    "cgroup2": _Version(limit="memory.max", usage="memory.current", reclaimable="inactive_file"),
}


def processor_name() -> str:
    """Returns the name of the host's processor, or of its architecture if the kernel does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def available_memory(root: Path = _ROOT) -> int:
    """Returns the memory that this process can still get (MiB): the host's, or what its control groups leave of it."""
    return min(psutil.virtual_memory().available, *_memory_left(root)) >> 20


def processors(root: Path = _ROOT) -> int:
    """Returns how many of the host's processors this process can keep busy; at least one."""
    return max(1, int(min(len(os.sched_getaffinity(0)), *_quotas(root))))


def workers(*, processors: int, memory: int, guest_processors: int, guest_memory: int) -> int:
    """Returns how many workers a host with that many processors and MiB bears, each with one guest of that size."""
    return max(1, min(processors * SHARED // guest_processors, memory // (guest_memory + OVERHEAD)))


def _memory_left(root: Path) -> Iterator[int]:
    """The bytes that each group above this process leaves it; caches that the kernel would give up count as left."""
    yield psutil.virtual_memory().total
    for kind, group in _groups("memory", root):
        files = _VERSIONS[kind]
        with contextlib.suppress(OSError, ValueError):
            limit, used = int(_text(group / files.limit)), int(_text(group / files.usage))
            yield max(0, limit - used + _reclaimable(group, files.reclaimable))


def _reclaimable(group: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(dict(line.split() for line in _text(group / "memory.stat").splitlines())[name])
    return 0


def _quotas(root: Path) -> Iterator[float]:
    """The processors' time for each second that each group above this process may use."""
    yield float("inf")
    for kind, group in _groups("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = _text(group / "cpu.max").split() if kind == "cgroup2" else (
                _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))  # fmt: skip
            if int(quota) > 0:  # "max" is no number, and -1 no limit
                yield int(quota) / int(period)


def _groups(controller: str, root: Path) -> Iterator[tuple[str, Path]]:
    """The directories of this process's groups of that controller, with their kind, from its own one upward."""
    with contextlib.suppress(OSError, ValueError):
        own = _own_groups(_text(root / "proc/self/cgroup"))
        for line in _text(root / "proc/self/mountinfo").splitlines():
            fields, _, rest = line.partition(" - ")
            top, mount = fields.split()[3:5]
            kind, _, options = rest.split()[:3]
            path = own.get("" if kind == "cgroup2" else controller)
            if path is None or not (kind == "cgroup2" or (kind == "cgroup" and controller in options.split(","))):
                continue
            yield from ((kind, directory) for directory in _upward(root / mount.lstrip("/"), path, top))


def _own_groups(table: str) -> dict[str, str]:
    """Controller → path of its group, from /proc/self/cgroup; that of version 2 has no name."""
    found: dict[str, str] = {}
    for line in table.splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _upward(mount: Path, path: str, top: str) -> Iterator[Path]:
    """From a group up to the mount point, which shows the groups from `top` on; a group elsewhere is not to be seen."""
    below = path[len(top):] if path.startswith(top) else ""
    directory = mount / below.strip("/")
    if ".." in directory.parts or not directory.is_dir():
        directory = mount
    yield from (place for place in (directory, *directory.parents) if place.is_relative_to(mount))


def _text(path: Path) -> str:
    return path.read_text("ascii", "replace").strip()
