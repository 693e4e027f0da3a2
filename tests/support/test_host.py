"""Host capacity: memory and CPUs under the limits of control groups, of either version and at any level."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from lifsea_testbed.support import host as hosts

GIBIBYTE = 1 << 30
V2 = "31 23 0:28 {top} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw"
V1 = "35 31 0:32 {top} /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{name}"
UNLIMITED_V1 = 9223372036854771712


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with 8 processors and 32 GiB, 24 of them free."""
    memory = psutil.virtual_memory()._replace(total=32 * GIBIBYTE, available=24 * GIBIBYTE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def system(root: Path, *, own: str, mounts: list[str], files: dict[str, object]) -> Path:
    """A root directory with a process's groups, the mounts that show them, and their files."""
    contents = {"proc/self/cgroup": own, "proc/self/mountinfo": "\n".join(mounts)}
    contents |= {f"sys/fs/cgroup/{name}": str(value) for name, value in files.items()}
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def test_without_control_groups_the_host_counts(tmp_path: Path) -> None:
    assert hosts.available_memory(tmp_path) == 24 * 1024
    assert hosts.processors(tmp_path) == 8


def test_every_group_above_a_process_counts(tmp_path: Path) -> None:
    root = system(tmp_path, own="0::/ci.slice/job/step", mounts=[V2.format(top="/")], files={
        "ci.slice/job/step/memory.max": "max", "ci.slice/job/step/memory.current": GIBIBYTE,
        "ci.slice/job/memory.max": 8 * GIBIBYTE, "ci.slice/job/memory.current": 2 * GIBIBYTE,
        "ci.slice/memory.max": 64 * GIBIBYTE, "ci.slice/memory.current": 2 * GIBIBYTE,
        "ci.slice/job/step/cpu.max": "max 100000", "ci.slice/job/cpu.max": "350000 100000",
    })  # fmt: skip
    assert hosts.available_memory(root) == 6 * 1024
    assert hosts.processors(root) == 3


def test_reclaimable_caches_do_not_count_as_used(tmp_path: Path) -> None:
    root = system(tmp_path, own="0::/", mounts=[V2.format(top="/")], files={
        "memory.max": 8 * GIBIBYTE, "memory.current": 7 * GIBIBYTE,
        "memory.stat": f"anon 1\ninactive_file {3 * GIBIBYTE}\nactive_file 5",
    })  # fmt: skip
    assert hosts.available_memory(root) == 4 * 1024


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """Without a namespace of its own the path is the host's, and the mount shows that group alone."""
    root = system(tmp_path, own="4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc",
                  mounts=[V1.format(top="/docker/abc", name="memory"), V1.format(top="/docker/abc", name="cpu")],
                  files={"memory/memory.limit_in_bytes": 4 * GIBIBYTE, "memory/memory.usage_in_bytes": GIBIBYTE,
                         "cpu/cpu.cfs_quota_us": 250000, "cpu/cpu.cfs_period_us": 100000})  # fmt: skip
    assert hosts.available_memory(root) == 3 * 1024
    assert hosts.processors(root) == 2


def test_no_limit_in_either_version_is_none(tmp_path: Path) -> None:
    root = system(tmp_path, own="4:memory:/job\n3:cpu:/job",
                  mounts=[V1.format(top="/", name="memory"), V1.format(top="/", name="cpu")],
                  files={"memory/job/memory.limit_in_bytes": UNLIMITED_V1, "memory/job/memory.usage_in_bytes": 1,
                         "cpu/job/cpu.cfs_quota_us": -1, "cpu/job/cpu.cfs_period_us": 100000})  # fmt: skip
    assert hosts.available_memory(root) == 24 * 1024
    assert hosts.processors(root) == 8


def test_less_than_a_processor_is_one_and_a_group_over_its_limit_has_nothing(tmp_path: Path) -> None:
    root = system(tmp_path, own="0::/../elsewhere", mounts=[V2.format(top="/")], files={
        "cpu.max": "50000 100000", "memory.max": GIBIBYTE, "memory.current": 2 * GIBIBYTE,
    })  # fmt: skip
    assert hosts.processors(root) == 1
    assert hosts.available_memory(root) == 0


def test_a_file_that_cannot_be_read_sets_no_limit(tmp_path: Path) -> None:
    root = system(tmp_path, own="nonsense", mounts=["more nonsense"], files={})
    assert hosts.available_memory(root) == 24 * 1024
    assert hosts.processors(root) == 8


@pytest.mark.parametrize(("processors", "memory", "guest", "count"), [
    (2, 23000, (2, 8192), 2), (8, 23000, (2, 8192), 2), (2, 64000, (2, 8192), 2), (16, 64000, (4, 8192), 7),
    (2, 24000, (128, 23000), 1), (2, 1000, (2, 8192), 1),
])  # fmt: skip
def test_workers_are_bounded_by_processors_and_by_memory(
    processors: int, memory: int, guest: tuple[int, int], count: int
) -> None:
    assert hosts.workers(processors=processors, memory=memory, guest_processors=guest[0],
                         guest_memory=guest[1]) == count  # fmt: skip
