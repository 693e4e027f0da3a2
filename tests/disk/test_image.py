"""What is opened, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lifsea_testbed.disk import image_lock
from lifsea_testbed.disk.image import examine
from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.disk.qcow2_header import LARGEST, parse_qcow2_header
from lifsea_testbed.errors import ImageRefused
from lifsea_testbed.support.sanitize import printable
from tests.support.boot_sector import boot_sector, raw_image


def qcow2(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "64M"], check=True)
    marks = [part for place, byte in ((510, 0x55), (511, 0xAA)) for part in ("-c", f"write -P {byte} {place} 1")]
    subprocess.run(["qemu-io", "-f", "qcow2", *marks, str(path)], check=True, capture_output=True)
    return path


def wrapped(path: Path, *options: str) -> Path:
    """The qcow2 file that qemu-img makes of a file which it takes for a raw disk."""
    made = path.with_name("wrapped.qcow2")
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options]
    subprocess.run([*convert, str(path), str(made)], check=True)
    return made


def with_bytes(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


@contextlib.contextmanager
def held(path: Path, *options: str) -> Iterator[int]:
    """Another QEMU program has the image open; yields its process number."""
    command = ["qemu-io", *options, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout
        holder.stdin.write("length\n")
        holder.stdin.flush()
        while "MiB" not in holder.stdout.readline():  # it has the file open by then
            assert holder.poll() is None
        yield holder.pid
        holder.stdin.close()


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


def test_a_file_in_use_by_a_machine_is_not_called_damaged(tmp_path: Path) -> None:
    """A QEMU program that writes to it holds locks; one that only reads it, as another run does, is no reason."""
    path = qcow2(tmp_path / "disk.qcow2")
    with held(path, "-r"):
        assert examine(path).unchanged
    for image in (path, raw_image(tmp_path / "disk.raw")):
        with held(image, "-f", "qcow2" if image is path else "raw") as holder, \
                pytest.raises(ImageRefused, match=rf"is in use by another program .*qemu-io \({holder}\)") as caught:
            examine(image)
        assert "stop that machine" in caught.value.hint


def test_a_process_cannot_draw_on_the_terminal_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "comm").write_bytes(b"a\x1b[2J\xff\n")
    assert image_lock._name(tmp_path) == printable(b"a\x1b[2J\xff") and "\x1b" not in image_lock._name(tmp_path)


def test_a_lock_that_only_qemu_img_meets_is_told_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifsea_testbed.disk.image.is_written", lambda descriptor: False)
    with held(path := qcow2(tmp_path / "disk.qcow2"), "-f", "qcow2"), pytest.raises(ImageRefused, match="is in use"):
        examine(path)


@pytest.mark.parametrize("name", [
    "with:colon.qcow2", "-x.qcow2", "-h", "--help", "file:x", "nbd:127.0.0.1:10809", "fat:x", "a,b=c",
    'json:{"driver":"raw","file":{"driver":"file","filename":"other.qcow2"}}',
])  # fmt: skip
def test_the_file_of_that_name_is_checked_and_no_other(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    qcow2(tmp_path / "other.qcow2")
    sound = qcow2(tmp_path / "sound.qcow2", "-o", "preallocation=metadata").read_bytes()
    (tmp_path / name).write_bytes(sound)
    assert examine(Path(name)).path == tmp_path / name
    (tmp_path / name).write_bytes(sound[:len(sound) // 2])
    with pytest.raises(ImageRefused, match="truncated or corrupt"):
        examine(Path(name))


def test_features_of_a_newer_qemu_are_named(tmp_path: Path) -> None:
    """QEMU writes a table of names into each file: here one of a feature to come is added to it."""
    path = with_bytes(qcow2(tmp_path / "disk.qcow2"), 72, struct.pack(">Q", 1 << 20 | 1 << 9))
    with path.open("r+b") as file:
        table = file.read(4096).index(struct.pack(">I", 0x6803F857)) + 8
        file.seek(table)
        file.write(b"\0\x14" + b"holes of zstd\x1b[2J".ljust(46, b"\0"))
    with pytest.raises(ImageRefused) as caught:
        examine(path)
    assert "does not know: bit 9, holes of zstd (bit 20)" in caught.value.happened
    assert "newer QEMU" in caught.value.hint and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(("status", "output", "happened", "hint"), [
    (2, "ERROR x\n1 errors were found", "truncated or corrupt qcow2 (1 errors were found)", "copy it again"),
    (1, "Could not open 'x': Unsupported cluster size: 2^40", "no qcow2 disk that QEMU opens", "copy it again"),
    (1, "qemu-img: Cannot allocate memory", "cannot be checked in 4 GiB", "qemu-img convert"),
    (-24, "", "was stopped by signal 24", "copy it again"),
])  # fmt: skip
def test_what_ended_the_check_is_told_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, output: str, happened: str, hint: str
) -> None:
    path = qcow2(tmp_path / "disk.qcow2")
    monkeypatch.setattr("subprocess.run", lambda command, **_: subprocess.CompletedProcess(command, status, "", output))
    with pytest.raises(ImageRefused) as caught:
        examine(path)
    assert happened in caught.value.happened and hint in caught.value.hint


def test_a_partition_table_in_a_file_that_ends_within_a_sector_is_seen(tmp_path: Path) -> None:
    os.truncate(path := raw_image(tmp_path / "disk.raw"), 1048476)
    with pytest.raises(ImageRefused, match="ends in the middle of a sector: 1048476 bytes") as caught:
        examine(path)
    subprocess.run(["sh", "-c", "truncate -s %512 disk.raw"], cwd=tmp_path, check=True)
    assert "truncate -s %512" in caught.value.hint and examine(path).virtual_size == 1048576


@pytest.mark.parametrize("make", [raw_image, qcow2])
def test_a_file_whose_digest_would_take_hours_is_refused_at_once(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    os.truncate(path := make(tmp_path / "disk"), 15 << 40)
    with pytest.raises(ImageRefused, match="is a file of 15360 GiB") as caught:
        examine(path)
    assert "512 GiB is the most" in caught.value.hint


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


@pytest.mark.parametrize(("data", "complaint"), [
    (gzip.compress(os.urandom(4096)), "the disk in it is a gzip file"),
    (bytes(1 << 20), "the disk in it is empty"),
    (b"#!/bin/sh\n".ljust(8192, b" "), "the disk in it has no partition table"),
    (boot_sector("x") + b"EFI PART".ljust(32, b"\0") + struct.pack("<Q", 1 << 30), "truncated: its partition table"),
])  # fmt: skip
def test_a_qcow2_image_of_no_disk_is_refused_before_it_boots(tmp_path: Path, data: bytes, complaint: str) -> None:
    """As `qemu-img convert` makes one of a compressed file: its verdict would be that the image is broken."""
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ImageRefused, match=complaint):
        examine(wrapped(tmp_path / "file"))


def test_a_qcow2_image_that_is_not_read_offline_is_left_to_the_machine(tmp_path: Path) -> None:
    image = wrapped(raw_image(tmp_path / "disk.raw"), "-o", "compression_type=zstd", "-c")
    assert examine(image).virtual_size == 1 << 20


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


def test_the_check_of_an_image_has_no_privileges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tool := tmp_path / "bin" / "qemu-img").parent.mkdir()
    tool.write_text("#!/bin/sh\n{ env; cat /proc/self/status; } | grep -E '^(SECRET|CapEff|NoNewPrivs)' | "
                    "tr '\\n\\t' '  ' >&2\nexit 2\n")  # fmt: skip
    tool.chmod(0o755)
    image = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SECRET", "x")
    with pytest.raises(ImageRefused, match=r"\(CapEff: 0000000000000000 NoNewPrivs: 1\)"):
        examine(image)
