"""What is opened, and what is refused."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from lifsea_testbed.disk.image import LARGEST, DiskFormat, examine, parse_qcow2_header
from lifsea_testbed.errors import ImageRefused
from tests.support.boot_sector import raw_image


def qcow2(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "64M"], check=True)
    return path


def with_bytes(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def test_a_raw_disk_is_accepted(tmp_path: Path) -> None:
    image = examine(raw_image(tmp_path / "disk.raw"))
    assert (image.format, image.virtual_size, image.unchanged) == (DiskFormat.RAW, 1 << 20, True)


def test_a_qcow2_image_is_accepted(tmp_path: Path) -> None:
    image = examine(qcow2(tmp_path / "disk.qcow2"))
    assert (image.format, image.virtual_size) == (DiskFormat.QCOW2, 64 << 20)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    image = examine(raw_image(tmp_path / "disk.raw"))
    os.utime(image.path, (1, 1))
    assert not image.unchanged


def test_an_image_that_is_only_read_stays_the_same(tmp_path: Path) -> None:
    path = qcow2(tmp_path / "disk.qcow2")
    path.chmod(0o444)
    assert examine(path).unchanged


@pytest.mark.parametrize(("magic", "kind"), [(b"KDMV", "VMDK"), (b"\x7fELF", "ELF"), (b"\x1f\x8b", "gzip")])
def test_another_format_is_named(tmp_path: Path, magic: bytes, kind: str) -> None:
    (tmp_path / "disk").write_bytes(magic.ljust(4096, b"\0"))
    with pytest.raises(ImageRefused, match=kind):
        examine(tmp_path / "disk")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="no such image"):
        examine(tmp_path / "none.qcow2")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="a directory"):
        examine(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageRefused, match="not a regular file"):
        examine(tmp_path / "pipe")


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ImageRefused, match="not a disk image"):
        examine(tmp_path / "text")


def test_a_backing_file_is_never_opened(tmp_path: Path) -> None:
    qcow2(tmp_path / "below.qcow2")
    above = qcow2(tmp_path / "above.qcow2", "-b", str(tmp_path / "below.qcow2"), "-F", "qcow2")
    with pytest.raises(ImageRefused, match="backing file"):
        examine(above)


def test_an_external_data_file_is_never_opened(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "disk.qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on")
    with pytest.raises(ImageRefused, match="external data file"):
        examine(image)


def test_a_truncated_qcow2_image_is_refused(tmp_path: Path) -> None:
    path = qcow2(tmp_path / "disk.qcow2", "-o", "preallocation=metadata")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ImageRefused, match="truncated or corrupt"):
        examine(path)


def test_a_header_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").write_bytes(b"QFI\xfb\0\0")
    with pytest.raises(ImageRefused, match="cut short"):
        examine(tmp_path / "disk.qcow2")


@pytest.mark.parametrize(("offset", "data", "complaint"), [
    (32, struct.pack(">I", 1), "encrypted"),
    (72, struct.pack(">Q", 2), "corrupt"),
    (24, struct.pack(">Q", LARGEST + 512), "claims a disk"),
    (4, struct.pack(">I", 9), "version 9"),
])  # fmt: skip
def test_a_header_that_means_trouble_is_refused(tmp_path: Path, offset: int, data: bytes, complaint: str) -> None:
    with pytest.raises(ImageRefused, match=complaint):
        examine(with_bytes(qcow2(tmp_path / "disk.qcow2"), offset, data))


def test_a_truncated_raw_disk_is_told_by_its_partition_table(tmp_path: Path) -> None:
    path = raw_image(tmp_path / "disk.raw")
    with_bytes(path, 512, b"EFI PART")
    with_bytes(path, 512 + 32, struct.pack("<Q", (2 << 20) // 512 - 1))
    with pytest.raises(ImageRefused, match="truncated"):
        examine(path)


def test_a_header_of_another_kind_is_no_qcow2() -> None:
    with pytest.raises(ValueError, match="version"):
        parse_qcow2_header(b"\0" * 104)


@pytest.mark.parametrize(("most", "fits"), [(1 << 20, True), (100_000, True), (50_000, False), (10, False)])
def test_a_file_fits_as_it_is_or_compressed(tmp_path: Path, most: int, fits: bool) -> None:
    path = with_bytes(raw_image(tmp_path / "disk.raw"), 4096, os.urandom(80_000))
    assert examine(path).fits_into(most) is fits
