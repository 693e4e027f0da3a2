"""Subvolumes of btrfs are found as mounts name them; compressed extents are unpacked."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import pytest

from lifsea_testbed.disk.btrfs_trees import SUPERBLOCK
from lifsea_testbed.disk.os_root import os_root
from lifsea_testbed.disk.probe import file_system
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.errors import DiskDamaged, NotJudged
from tests.disk.test_boot_choice import kernel
from tests.disk.test_file_systems import tree_of
from tests.fuzz.file_systems import Bytes
from tests.support import disks

MIB = 1 << 20
EXTENT = b"".join(b"%6d\n" % number for number in range(1 << 17))[:1 << 17]


def system(directory: Path, command_line: str, fstab: str = "") -> Path:
    """A disk with an ESP, and a btrfs whose directories stand for subvolumes."""
    path = directory / "disk.raw"
    with path.open("wb") as file:
        file.truncate(160 * MIB)
    disks.run("sfdisk", "--quiet", path, given="label: gpt\nstart=2048, size=16384, type=U\nstart=20480, type=L\n")
    disks.fat(path, disks.fill(directory / "esp", {"EFI/Linux/os.efi": kernel(command_line)}), offset=MIB, size=8)
    content = disks.fill(directory / "content", {"root/etc/os-release": "ID=x\n", "root/etc/fstab": fstab,
                                                 "@/home/bin/python3*": "", "root/home/x": ""})  # fmt: skip
    made = disks.made_of("btrfs", directory / "btrfs", content, "-L", "os")
    with path.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(made.read_bytes())
    return path


def test_a_root_and_a_mount_are_subvolumes(tmp_path: Path) -> None:
    fstab = "LABEL=os / btrfs subvol=root 0 0\nLABEL=os /home btrfs compress=zstd,subvol=/@/home 0 0\n"
    with RawFile(system(tmp_path, "root=LABEL=os rootflags=noatime,subvol=root", fstab)) as disk:
        tree = os_root(disk).tree
        assert tree.read("/etc/os-release") == b"ID=x\n" and tree.names("/home") == ["bin"]
        assert tree.unread == ()


def test_a_subvolume_that_is_not_there_is_not_judged(tmp_path: Path) -> None:
    with RawFile(system(tmp_path, "root=LABEL=os rootflags=subvol=gone")) as disk, \
            pytest.raises(NotJudged, match="rootflags=subvol=gone"):  # fmt: skip
        os_root(disk)


def test_a_mount_of_a_subvolume_that_is_not_there_hides_something(tmp_path: Path) -> None:
    path = system(tmp_path, "root=LABEL=os rootflags=subvol=/root", "LABEL=os /home btrfs subvol=gone 0 0\n")
    with RawFile(path) as disk:
        assert os_root(disk).tree.unread == ("LABEL=os is mounted on /home, and is not on this disk",)


def compressed(directory: Path, kind: int, stored: bytes) -> Bytes:
    """A btrfs with a file of one extent, which is given that compression and content."""
    path = disks.made_of("btrfs", directory / "disk", disks.fill(directory / "content", {"f": EXTENT}))
    data = bytearray(path.read_bytes())
    head, tail = struct.pack("<QBBHB", len(EXTENT), 0, 0, 0, 1), struct.pack("<3Q", len(EXTENT), 0, len(EXTENT))
    items = [found.start() for found in re.finditer(re.escape(head) + b".{8}" + re.escape(tail), data, re.DOTALL)]
    place = data.index(EXTENT)
    data[place:place + len(EXTENT)] = stored.ljust(len(EXTENT), b"\0")
    for item in items:  # the leaf, and its copies
        data[item + 8] = kind
        data[item + 21:item + 29] = (-(-len(stored) // 4096) * 4096).to_bytes(8, "little")
    return Bytes(bytes(data))


def test_a_compressed_extent_is_unpacked(tmp_path: Path) -> None:
    place = tree_of(compressed(tmp_path, 1, zlib.compress(EXTENT))).find("/f")
    assert place and place.read() == EXTENT and place.part(70_000, 9) == EXTENT[70_000:70_009]


@pytest.mark.parametrize(("stored", "error"), [
    (b"no stream", "cannot be unpacked"), (zlib.compress(EXTENT + b"x"), "holds more than"),
    (zlib.compress(EXTENT[:-1]), "too short"),
])  # fmt: skip
def test_a_compressed_extent_that_is_none_is_damage(tmp_path: Path, stored: bytes, error: str) -> None:
    place = tree_of(compressed(tmp_path, 1, stored)).find("/f")
    with pytest.raises(DiskDamaged, match=error):
        _ = place and place.read()


@pytest.mark.parametrize(("kind", "name"), [(2, "lzo"), (3, "zstd")])
def test_what_is_compressed_in_another_way_is_not_judged(tmp_path: Path, kind: int, name: str) -> None:
    place = tree_of(compressed(tmp_path, kind, b"x")).find("/f")
    with pytest.raises(NotJudged, match=f"compressed by {name}"):
        _ = place and place.read()


@pytest.mark.parametrize(("offset", "value", "reason"), [
    (96, 1 << 20, "not shut down"), (136, 2, "lies on 2 devices"), (188, 1 << 40, "features that are not read"),
])
def test_what_is_not_read_of_a_superblock_is_not_judged(tmp_path: Path, offset: int, value: int, reason: str) -> None:
    path = disks.made_of("btrfs", tmp_path / "disk", disks.fill(tmp_path / "content", {"f": ""}))
    data = bytearray(path.read_bytes())
    data[SUPERBLOCK + offset:SUPERBLOCK + offset + 8] = value.to_bytes(8, "little")
    with pytest.raises(NotJudged, match=reason):
        file_system(Bytes(bytes(data)))
