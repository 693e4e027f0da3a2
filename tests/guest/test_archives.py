"""An archive of a guest is unpacked within bounds, and whatever is wrong with it is the guest's fault."""

from __future__ import annotations

import contextlib
import errno
import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from lifsea_testbed.errors import HostError
from lifsea_testbed.guest import archives
from lifsea_testbed.guest.archives import UnreadableArchive, unpack


def archive(*entries: tuple[str, int], kind: bytes = tarfile.REGTYPE, form: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    """An archive with entries of these names and sizes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as made:
        for name, size in entries:
            header = tarfile.TarInfo(name)
            header.size, header.type, header.linkname = size, kind, "x"
            made.addfile(header, io.BytesIO(bytes(size)) if kind == tarfile.REGTYPE else None)
    file.seek(0)
    return file


def refused(file: io.BytesIO, into: Path, words: str = "") -> None:
    with pytest.raises(UnreadableArchive, match=words or None):
        unpack(file, into)


def test_files_and_directories_are_unpacked(tmp_path: Path) -> None:
    unpack(archive(("./a/b/c", 3), ("./" + "d" * 255, 0)), tmp_path)
    assert (tmp_path / "a/b/c").read_bytes() == bytes(3) and (tmp_path / ("d" * 255)).is_file()


def test_the_bytes_and_the_entries_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 1000)
    monkeypatch.setattr(archives, "MOST", 5)
    unpack(archive(*[(f"{number}", 200) for number in range(5)]), tmp_path / "fits")
    refused(archive(("a", 500), ("b", 501)), tmp_path / "large", "GiB together")
    refused(archive(*[(f"{number}", 0) for number in range(6)]), tmp_path / "many", "5 entries")
    assert len(list((tmp_path / "many").iterdir())) == 5


def test_a_sparse_file_counts_with_its_holes(tmp_path: Path) -> None:
    """GNU tar stores a file of a tebibyte in some kilobytes."""
    (tmp_path / "there").mkdir()
    with (tmp_path / "there/sparse").open("wb") as file:
        file.truncate(1 << 40)
    for form in ("gnu", "posix"):
        command = ["tar", "-C", str(tmp_path / "there"), "--sparse", f"--format={form}", "-cf", "-", "."]
        packed = subprocess.run(command, capture_output=True, check=True).stdout
        assert len(packed) < 1 << 20
        refused(io.BytesIO(packed), tmp_path / form, "4 GiB together")
        assert not (tmp_path / form / "sparse").exists()


@pytest.mark.parametrize(("name", "words"), [
    ("/".join("x" * 65), "64 parts"), ("x" * 256, "255 bytes"), ("é" * 128, "255 bytes"),
    ("/".join(["x" * 200] * 21), "4096 bytes"), ("/".join("x" * 5000), "64 parts"),
])  # fmt: skip
def test_paths_are_bounded(tmp_path: Path, name: str, words: str) -> None:
    refused(archive((name, 0)), tmp_path, words)


def test_a_header_is_not_read_into_memory_whatever_it_announces(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 1 << 33
        refused(io.BytesIO(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)), tmp_path, "a header of 8589934592 bytes")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    refused(archive(("x", 0), kind=kind), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out"])
def test_nothing_lands_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    with contextlib.suppress(UnreadableArchive):
        unpack(archive((name, 1)), tmp_path / "in")
    assert not (tmp_path / "out").exists() and not Path("/etc/out").exists()


def test_damage_of_any_kind_is_told_as_such(tmp_path: Path) -> None:
    """Ten thousand archives with bytes that are changed, lost and doubled: no other exception."""
    dice = random.Random(7)
    whole = archive(*[(f"d/{'x' * (50 * number)}", number) for number in range(6)]).getvalue()
    sparse = archive(("x", 0), form=tarfile.GNU_FORMAT).getvalue()
    for _ in range(10_000):
        data = bytearray(dice.choice((whole, sparse)))
        for _ in range(dice.randrange(1, 8)):
            at = dice.randrange(len(data))
            data[at:at + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        with contextlib.suppress(UnreadableArchive):
            unpack(io.BytesIO(bytes(data)), tmp_path)


def test_a_host_that_cannot_write_is_not_the_guests_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(HostError, match="No space left"):
        unpack(archive(("x", 1)), tmp_path)
