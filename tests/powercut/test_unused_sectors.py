"""Sectors that a recovery never uses make no difference to another implementation of it, e2fsck's."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from lifsea_testbed.disk.ext4 import Ext4
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.powercut import unused_sectors
from lifsea_testbed.powercut.unused_sectors import may_hold_signature, never_used, overwritten_unseen
from lifsea_testbed.powercut.write_log import SECTOR
from tests.support import disks

_ROOT = 17 << 20


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A disk whose file holds "old"; its journal has "new" for it, committed, and "lost", not committed."""
    root = disks.fill(tmp_path / "root", {"f": "old"})
    disk = disks.disk(tmp_path / "disk.raw", root=root, options=("-b", "1024"))
    place = disks.run("debugfs", "-R", "blocks /f", f"{disk}?offset={_ROOT}").split()[0]
    commands = ["jo"]
    for text, option in (("new", ""), ("lost", "-c")):  # -c: without a commit block
        block = tmp_path / text
        block.write_bytes(text.encode().ljust(1024, b"\0"))
        commands.append(f"jw {option} -b {place} {block}")
    script = tmp_path / "commands"
    script.write_text("\n".join([*commands, "jc", ""]))
    disks.run("debugfs", "-w", "-f", script, f"{disk}?offset={_ROOT}")
    return disk


def recovered(disk: Path) -> str:
    """The file's content once e2fsck has replayed the journal."""
    (part := disk.with_suffix(".part")).write_bytes(disks.root_partition(disk))
    disks.run("e2fsck", "-p", "-E", "journal_only", part)
    with RawFile(part) as source:
        return (Tree(root_of(Ext4(source))).read("/f") or b"").decode()


def scribbled(disk: Path, sectors: set[int]) -> Path:
    """A copy of the disk with random bytes in these sectors."""
    copy = Path(shutil.copy(disk, disk.with_name("copy.raw")))
    with copy.open("r+b") as file:
        for sector in sectors:
            file.seek(sector * SECTOR)
            file.write(random.Random(sector).randbytes(SECTOR))
    return copy


def test_what_is_never_used_makes_no_difference(crashed: Path) -> None:
    with RawFile(crashed) as source:
        idle = never_used(source)
    assert len(idle) > 1000
    assert recovered(scribbled(crashed, idle)) == "new"


def test_used_sectors_make_a_difference(crashed: Path) -> None:
    """The four blocks before: descriptor, content and commit block of "new", and the descriptor of "lost"."""
    with RawFile(crashed) as source:
        first = min(never_used(source))
    assert recovered(scribbled(crashed, set(range(first - 8, first)))) == "old"


@pytest.fixture
def replaying(tmp_path: Path) -> Path:
    """A disk whose journal has the block of inodes that "f" is in; the file system's own copy of it is old."""
    root = disks.fill(tmp_path / "root", {"f": "old", "g": "new"})
    disk = disks.disk(tmp_path / "disk.raw", root=root, options=("-b", "1024"))
    at = f"{disk}?offset={_ROOT}"
    table = int(disks.run("debugfs", "-R", "imap <12>", at).rpartition("at block ")[2].split(",")[0])
    (block := tmp_path / "block").write_bytes(disks.root_partition(disk)[table * 1024:(table + 1) * 1024])
    script = tmp_path / "commands"
    script.write_text(f"jo\njw -b {table} {block}\njc\n")
    disks.run("debugfs", "-w", "-f", script, at)
    return disk


def test_inodes_that_a_recovery_overwrites_make_no_difference(
        replaying: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unused_sectors, "may_hold_signature", lambda sector, end: False)
    with RawFile(replaying) as source:
        unseen = overwritten_unseen(source)
    assert len(unseen) == 2
    assert recovered(scribbled(replaying, unseen)) == "old"


def test_sectors_that_may_hold_a_signature_count_as_used(replaying: Path) -> None:
    with RawFile(replaying) as source:
        assert overwritten_unseen(source) == set()
    marks = {0: "most", 64 << 10: "btrfs", 256 << 10: "UFS, and ZFS's second label", 1 << 20: "VMFS", 4 << 20: "LUKS 2"}
    assert all(may_hold_signature(place // SECTOR, 1 << 30) for place in marks)
    assert may_hold_signature((1 << 30) - 1, 1 << 30)  # mdraid
    assert not may_hold_signature((700 << 10) // SECTOR, 1 << 30)


def test_a_disk_that_cannot_be_read_adds_nothing(tmp_path: Path) -> None:
    for content in (bytes(4096), random.Random(1).randbytes(1 << 16)):
        (tmp_path / "disk").write_bytes(content)
        with RawFile(tmp_path / "disk") as source:
            assert never_used(source) == overwritten_unseen(source) == set()
