"""The listing of a broken disk: the directories where its boot begins, with the journal and without."""

from __future__ import annotations

from pathlib import Path

from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.powercut.boot_listing import listing
from lifsea_testbed.powercut.disk_contents import CrashDisk
from tests.support.disks import disk, fill

ROOT = {"ostree/boot.1": "-> boot.1.1", "ostree/boot.1.1/os/0/readme": "x"}
BOOT = {"loader": "-> loader.1", "loader.1/entries/ostree-1.conf": "title one\n"}


def made(tmp_path: Path) -> Path:
    return disk(tmp_path / "disk.raw", root=fill(tmp_path / "root", ROOT), boot=fill(tmp_path / "boot", BOOT))


def test_links_and_entries_are_listed_both_ways(tmp_path: Path) -> None:
    with RawFile(made(tmp_path)) as source:
        lines = listing(source).splitlines()
    assert [line for line in lines if line.startswith("partition")] == [
        "partition 1 without its journal:", "partition 1 with its journal:",
        "partition 2 without its journal:", "partition 2 with its journal:",
    ]  # fmt: skip
    for line in ("  /loader -> loader.1", "  /loader/entries: ostree-1.conf", "  /ostree: boot.1 boot.1.1",
                 "  /ostree/boot.1 -> boot.1.1"):  # fmt: skip
        assert lines.count(line) == 2


def test_a_disk_of_zeros_lists_nothing(tmp_path: Path) -> None:
    """The partition's superblock is there; all behind it is zeros."""
    path = made(tmp_path)
    with RawFile(path) as source:
        zeros = {number: bytes(4096) for number in range(257, source.size // 4096)}
        listed = listing(CrashDisk(source, zeros.get))
    assert listed.splitlines()[:2] == ["partition 1 without its journal:", "  nothing of ostree"]


def test_an_unreadable_partition_table_is_reported(tmp_path: Path) -> None:
    with RawFile(made(tmp_path)) as source:
        assert listing(CrashDisk(source, {0: source.read_at(0, 512) + b"EFI PART".ljust(4096 - 512, b"\xff")}.get)) \
            .startswith("cannot be read: ")
