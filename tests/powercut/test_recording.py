"""QEMU's own block layer records a disk, and the log replays to exactly that disk."""

from __future__ import annotations

import contextlib
import random
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.disk.image import Image
from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.ecs import instance_types
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import NotJudged, TestbedError
from lifsea_testbed.powercut.operation import PreparedDisk, variables_of
from lifsea_testbed.powercut.recorded_disk import RecordedDisk
from lifsea_testbed.powercut.recording import VariableWatch
from lifsea_testbed.powercut.write_log import WriteLog
from tests.qemu.test_command_line import INSTANCE, command

SIZE = 8 << 20
REQUESTS = (
    "write -P 1 0 4k", "write -P 2 2k 64k", "flush", "write -P 3 1M 512", "write -z 64k 128k", "discard 2M 1M",
    "write -P 4 2M 4k", "flush", "write -P 5 4194816 1536", "write -z -u 3M 64k",
)  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.raw"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def image_of(path: Path) -> Image:
    return Image(path=path, format=DiskFormat.RAW, virtual_size=SIZE, file_size=SIZE, stamp=(0, 0, 0))


def recorded(base: Path, *requests: str) -> tuple[Path, Path]:
    """Sends these requests through the node that QEMU's command line puts above an overlay; returns log and overlay."""
    log, overlay = base.with_name("log"), base.with_name("overlay.qcow2")
    log.write_bytes(b"")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", overlay, str(SIZE)], check=True)
    node = ("driver=blklogwrites,log-sector-size=512,discard=unmap,log.driver=file,"
            f"log.filename={log},file.driver=qcow2,file.discard=ignore,file.file.driver=file,"
            f"file.file.filename={overlay},file.backing.driver=raw,file.backing.file.driver=file,"
            f"file.backing.file.filename={base}")  # fmt: skip
    options = [word for request in requests for word in ("-c", request)]
    done = subprocess.run(["qemu-io", "-t", "writeback", "-d", "unmap", "--image-opts", *options, node], check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert "rror" not in done.stdout + done.stderr
    return log, overlay


def test_a_real_log_replays_to_the_disk(base: Path) -> None:
    log, overlay = recorded(base, *REQUESTS)
    with contextlib.closing(RecordedDisk(image_of(base), (), log, overlay)) as disk, RawFile(log) as file:
        read = WriteLog(file, disk_size=SIZE)
        disk.check_replay()
        assert disk.size == SIZE and disk.read_at(4097, 6 << 20) == base.read_bytes()[4097:(6 << 20) + 4097]
        assert sum(entry.is_write for entry in read.entries) == 7
        assert sum(entry.is_flush for entry in read.entries) >= 2


def test_a_disk_changed_without_the_log_is_noticed(base: Path) -> None:
    log, overlay = recorded(base, *REQUESTS)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 9 7M 4k", overlay], check=True, capture_output=True)
    with contextlib.closing(RecordedDisk(image_of(base), (), log, overlay)) as disk, \
            pytest.raises(TestbedError, match=f"the replay of the log differs .* at byte {7 << 20}"):  # fmt: skip
        disk.check_replay()


@pytest.mark.parametrize("written", [False, True])
def test_an_operation_that_writes_variables_of_uefi_is_not_judged(tmp_path: Path, written: bool) -> None:
    """Firmware writes some as well, before the operation begins; where there is a BIOS, there are none."""
    store = tmp_path / "base.fd"
    disks = SimpleNamespace(variables=SimpleNamespace(path=store))
    machine: Any = SimpleNamespace(boot=SimpleNamespace(disks=disks))
    watch = VariableWatch(machine)
    watch.require_same()
    store.write_bytes(b"by the firmware")
    watch.begin()
    store.write_bytes(b"by the system" if written else b"by the firmware")
    watch.begin()
    with pytest.raises(NotJudged, match="UEFI variables") if written else contextlib.nullcontext():
        watch.require_same()
    disks.variables = None
    bios = VariableWatch(machine)
    bios.begin()
    bios.require_same()


def test_variables_lie_beside_the_lowest_layer(tmp_path: Path) -> None:
    layers = (tmp_path / "base.qcow2", tmp_path / "cut.qcow2")
    assert variables_of(layers) is None
    (tmp_path / "base.fd").write_bytes(b"x")
    assert variables_of(layers) == tmp_path / "base.fd"
    prepared = PreparedDisk(instance=Instance(type=instance_types.find("ecs.g7.large")), layers=layers)
    assert prepared.variables == tmp_path / "base.fd"


def test_layers_and_log_are_on_the_command_line() -> None:
    words = " ".join(command(layers=(20, 21), write_log=22, reads=23))
    assert "node-name=layer-1,file=layer-file-1,backing=image,read-only=on" in words
    assert "node-name=layer-2,file=layer-file-2,backing=layer-1,read-only=on" in words
    assert "node-name=overlay,file=overlay-file,backing=layer-2,discard=ignore" in words
    assert "driver=blklogwrites,node-name=logged,file=overlay,log=log-file,log-sector-size=512" in words
    assert "node-name=disk,file=logged" in words
    assert "-trace enable=virtio_blk_handle_read -trace enable=virtio_blk_handle_write " in words
    assert "-trace enable=virtio_set_status -trace file=/dev/fd/23" in words
    assert INSTANCE.disk_serial in words
