"""A snapshot without a machine, as the cache and the pool see one."""

from __future__ import annotations

from pathlib import Path

from lifsea_testbed.ecs import instance_types
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import MetadataRequest
from lifsea_testbed.machine import snapshot as snapshots
from lifsea_testbed.machine.snapshot import SnapshotFacts
from lifsea_testbed.profiles.profile import AccessMethod, AccessSection

INSTANCE = Instance(type=instance_types.find("ecs.g7.large"))
KEY = {"image": "1", "accelerator": "tcg"}
FACTS = SnapshotFacts(
    key=KEY, image="out.qcow2", profile="reference", accelerator="tcg", instance=INSTANCE, memory=8192, disks=1,
    access_method=AccessMethod.USER_DATA, access=AccessSection(), boot_id="b", shell_after=9.0, clock=0,
    tokens={"t": 60.0},
    requests=[MetadataRequest(at=1.0, method="GET", path="/latest/user-data", status=200)], made_at="", seconds=1.0,
    quiet_seconds=0.5,
)  # fmt: skip


def make(directory: Path, *, key: dict[str, str] | None = None, size: int = 1) -> None:
    """Writes the files that the cache takes for a snapshot, with a memory of so many KiB."""
    (directory / snapshots.MEMORY).write_bytes(b"x" * size * 1024)
    (directory / snapshots.FACTS).write_text(FACTS.model_copy(update={"key": key or KEY}).model_dump_json())
