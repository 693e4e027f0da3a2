"""FAT, and so an ESP, is read as Linux and a firmware read it; what is inconsistent is damage."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from lifsea_testbed.disk.fat import Fat, is_fat
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.source import RawFile, Window
from lifsea_testbed.errors import DiskDamaged
from tests.fuzz.file_systems import Bytes
from tests.support import disks

LARGE = bytes(range(256)) * 3000
CONTENT: dict[str, str | bytes] = {
    "EFI/BOOT/BOOTX64.EFI": LARGE, "EFI/Linux/an os_2+3-0.efi": "uki", "loader/loader.conf": "default x\n",
    "lower.txt": "l", "Mixed.Name with more than 13 letters, and one part more.conf": "m", "ünï-文.txt": "u",
    "empty": "", **{f"many/entry number {number}.conf": str(number) for number in range(300)},
}  # fmt: skip


def tree_of(source: Bytes | RawFile) -> Tree:
    assert is_fat(source)
    return Tree(root_of(Fat(source)))


def small(directory: Path, *options: str) -> bytearray:
    content = disks.fill(directory / "content", {"f": "x" * 5000, "d/g": "y"})
    return bytearray(disks.fat(directory / "disk", content, "-F", "12", "-s", "1", *options, size=1).read_bytes())


def place_of(data: bytes, name: str) -> int:
    """The place of the directory entry of a file in the topmost directory."""
    place = tree_of(Bytes(bytes(data))).find(name)
    assert place is not None
    return place.inode.number


@pytest.mark.parametrize(("bits", "size"), [("12", 4), ("16", 16), ("32", 64)])
def test_each_kind_of_fat_is_read(tmp_path: Path, bits: str, size: int) -> None:
    content = disks.fill(tmp_path / "content", CONTENT)
    options = ["-F", bits, "-n", "THE ESP", "-i", "ABCD1234"]
    with RawFile(disks.fat(tmp_path / "disk", content, *options, size=size)) as source:
        tree, system = tree_of(source), Fat(source)
        assert {name: tree.read(f"/{name}") for name in CONTENT} == {
            name: text.encode() if isinstance(text, str) else text for name, text in CONTENT.items()}  # fmt: skip
        assert (system.identifier, system.label, system.layout.bits) == ("abcd-1234", "THE ESP", int(bits))
        assert len(tree.names("/many")) == 300 and tree.names("/EFI") == ["BOOT", "Linux"]


@pytest.mark.parametrize("options", [("-S", "4096"), ("-F", "32", "-s", "1")], ids=str)
def test_the_width_of_the_table_is_what_linux_takes(tmp_path: Path, options: tuple[str, ...]) -> None:
    """FAT32 with fewer clusters than Microsoft's specification has for it is FAT32 in Linux, and to mkfs.fat."""
    empty = disks.fill(tmp_path / "content", {"x/y": ""}) / "x" / ".." / "none"
    empty.mkdir()
    with RawFile(disks.fat(tmp_path / "disk", empty, "-n", "L", *options, size=8)) as source:
        assert Fat(source).layout.bits == (32 if "32" in options else 12)
        assert (Fat(source).label, tree_of(source).names("/")) == ("L", [])


def test_a_name_is_found_in_any_case(tmp_path: Path) -> None:
    with RawFile(disks.fat(tmp_path / "disk", disks.fill(tmp_path / "content", CONTENT))) as source:
        tree = tree_of(source)
        assert tree.read("/efi/boot/bootx64.efi") == tree.read("/EFI/BOOT/BOOTX64.EFI") == LARGE
        assert [str(path) for path in tree.glob("/EFI/LINUX/*.EFI")] == ["/EFI/LINUX/an os_2+3-0.efi"]


def test_a_file_in_pieces_all_over_the_disk_is_read(tmp_path: Path) -> None:
    """Every second file is removed before a larger one is written, which has to take the gaps."""
    content = disks.fill(tmp_path / "content", {f"f{number:03}": bytes(5000) for number in range(150)})
    path = disks.fat(tmp_path / "disk", content, "-F", "12", "-s", "1", size=1)
    disks.run("mdel", "-i", path, *[f"::f{number:03}" for number in range(0, 150, 2)])
    large = disks.fill(tmp_path / "large", {"large": LARGE[:300_000]})
    disks.run("mcopy", "-i", path, large / "large", "::")
    disks.run("fsck.fat", "-n", path)
    with RawFile(path) as source:
        tree = tree_of(source)
        assert tree.read("/large") == LARGE[:300_000]
        place = tree.find("/large")
        assert place and place.part(4990, 20) == LARGE[4990:5010]


def test_a_name_without_its_long_form_is_the_short_one(tmp_path: Path) -> None:
    data = small(tmp_path)
    place = place_of(bytes(data), "/d")
    data[place:place + 11] = b"\x05LD     TXT"
    data[place + 12] = 0x08
    assert "σld.TXT" in tree_of(Bytes(bytes(data))).names("/")


def test_a_label_is_no_file(tmp_path: Path) -> None:
    assert tree_of(Bytes(bytes(small(tmp_path, "-n", "LABEL")))).names("/") == ["d", "f"]


@pytest.mark.parametrize(("change", "error"), [
    (lambda place: (place + 26, struct.pack("<H", 0xFF0)), "refers to cluster 4080 of"),
    (lambda place: (place + 26, b"\0\0"), "has a file of 5000 bytes whose clusters end after 0"),
    (lambda place: (place + 28, struct.pack("<I", 1 << 20)), "bytes whose clusters end after"),
    (lambda place: (place, b"a/b        "), "invalid name"),
])  # fmt: skip
def test_an_entry_that_contradicts_the_table_is_damage(tmp_path: Path, change: Callable[[int], tuple[int, bytes]],
                                                       error: str) -> None:
    data = small(tmp_path)
    where, new = change(place_of(bytes(data), "/f"))
    data[where:where + len(new)] = new
    with pytest.raises(DiskDamaged, match=error):
        [place.read() for _, place in tree_of(Bytes(bytes(data))).walk() if place.is_regular]


@pytest.mark.parametrize(("following", "error"), [
    (lambda first: first, "without an end"), (lambda first: 0, "a cluster that is free"),
])
def test_a_chain_of_clusters_that_does_not_end_is_damage(tmp_path: Path, following: Callable[[int], int],
                                                         error: str) -> None:
    """The directory `d` has one cluster, whose entry in the table is changed."""
    data = small(tmp_path)
    first = int.from_bytes(data[place_of(bytes(data), "/d") + 26:][:2], "little")
    value, where = following(first), 512 + first + first // 2
    pair = int.from_bytes(data[where:where + 2], "little")
    pair = pair & 0x000F | value << 4 if first % 2 else pair & 0xF000 | value
    data[where:where + 2] = pair.to_bytes(2, "little")
    with pytest.raises(DiskDamaged, match=error):
        tree_of(Bytes(bytes(data))).names("/d")


def test_a_file_system_behind_its_partition_is_damage(tmp_path: Path) -> None:
    data = small(tmp_path)
    with pytest.raises(DiskDamaged, match="ends 4096 bytes behind its partition"):
        Fat(Window(Bytes(bytes(data)), 0, len(data) - 4096))
