"""The context of a run: the same in every process of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import execnet
import pytest

from lifsea_testbed.disk.image import digest, examine
from lifsea_testbed.ecs import instance_types
from lifsea_testbed.errors import ImageRefused
from lifsea_testbed.machine.context import RunContext
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.qemu.firmware import FirmwareFiles
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.support.private_dir import Leftover
from lifsea_testbed.support.shard import ShardIndex
from tests.disk.test_image import qcow2
from tests.support.boot_sector import raw_image


def context(path: Path) -> RunContext:
    return RunContext(
        image=examine(path), next_image=examine(qcow2(path.with_name("next.qcow2"))), profile="reference",
        instance_type=instance_types.find("ecs.g7.large"), accelerator_option="auto",
        accelerator=Accelerator(kind=AcceleratorKind.TCG, speed=1800.0, why="measured"),
        emulator=Emulator(binary="/usr/bin/qemu", version="10.0"), memory=8192, scratch=path.parent,
        reports=path.parent / "reports", claims=("no-sshd",), shard=ShardIndex(number=2, count=3),
        durations={"test_a": 1.5},
        known_issues=(path.parent / "known.toml",), data_disk=20, firmware=Firmware.UEFI, firmware_reason="named",
        firmware_files=FirmwareFiles(description="d", code=path, variables=path),
        removed=(Leftover(path=path.parent, size=3, processes=(1, 2)),),
    )  # fmt: skip


def test_a_worker_receives_the_whole_context_without_reading_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = context(raw_image(tmp_path / "disk.raw"))
    text = execnet.loads(execnet.dumps(sent.to_json()))
    monkeypatch.setattr("lifsea_testbed.disk.image.digest", None)
    assert RunContext.from_json(text) == sent
    assert RunContext.from_json(text).image.sha256 == digest(sent.image.path)


def test_an_image_that_changes_while_the_run_starts_is_refused(tmp_path: Path) -> None:
    path = raw_image(tmp_path / "disk.raw")
    text = context(path).to_json()
    with path.open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(ImageRefused, match="was changed"):
        RunContext.from_json(text)


def test_memory_is_short_where_the_host_has_less_than_the_instance_type(tmp_path: Path) -> None:
    whole = context(raw_image(tmp_path / "disk.raw"))
    assert not whole.memory_is_short
    assert replace(whole, memory=4096).memory_is_short
