"""A file system that e2fsck finds sound is read, whatever its blocks, clusters and places of group descriptors are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lifsea_testbed.disk.ext4 import Ext4, Ext4Inode
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.source import RawFile
from tests.support import disks

CONTENT = {f"d{number}/file": f"{number}\n" * 1000 for number in range(40)}


@pytest.mark.parametrize("features", ["", "bigalloc", "meta_bg,^resize_inode", "bigalloc,meta_bg,^resize_inode",
                                      "^64bit", "bigalloc,^64bit", "^flex_bg", "sparse_super2", "^has_journal"])
@pytest.mark.parametrize(("block", "size"), [(1024, 16), (1024, 300), (2048, 64), (4096, 300)])
def test_a_sound_file_system_is_read(tmp_path: Path, features: str, block: int, size: int) -> None:
    content = disks.fill(tmp_path / "content", CONTENT)
    options = ["-b", str(block), *(["-O", features] if features else [])]
    options += ["-C", str(block * 16)] if "bigalloc" in features else []
    path = disks.file_system(tmp_path / "disk", content, *options, size=size)
    disks.run("e2fsck", "-fn", path)
    with RawFile(path) as source:
        tree = Tree(root_of(Ext4(source)))
        assert {name: tree.read(f"/{name}") for name in CONTENT} == {
            name: text.encode() for name, text in CONTENT.items()}  # fmt: skip


def test_content_within_inodes_is_read(tmp_path: Path) -> None:
    """Files, links and directories of up to some 150 bytes."""
    names = {f"small/{'n' * 8}{number}": "" for number in range(3)} | {f"few/{number}": "" for number in range(9)}
    texts = {f"file{size}": "x" * size for size in (0, 1, 59, 60, 61, 100, 150, 5000)}
    content = disks.fill(tmp_path / "content", {**names, **texts, "link": f"-> {'t' * 59}", "long": f"-> {'t' * 100}"})
    os.setxattr(content / "file100", "user.a", b"b")
    path = disks.file_system(tmp_path / "disk", content, "-O", "inline_data", "-I", "256")
    disks.run("e2fsck", "-fn", path)
    with RawFile(path) as source:
        tree = Tree(root_of(Ext4(source)))
        assert {name: tree.read(f"/{name}") for name in texts} == {name: text.encode() for name, text in texts.items()}
        assert tree.names("/small") == [f"{'n' * 8}{number}" for number in range(3)] and len(tree.names("/few")) == 9
        places = {name: place for name in ("link", "long", "file100") if (place := tree.find(name, follow=False))}
        assert {name: places[name].file_system.link_target(places[name].inode) for name in ("link", "long")} == {
            "link": "t" * 59, "long": "t" * 100}  # fmt: skip
        assert places["file100"].file_system.attribute_values(places["file100"].inode) == {"user.a": b"b"}
        assert places["file100"].part(70, 9) == b"x" * 9
        assert any(place.inode.flags & 0x10000000 for _, place in tree.walk() if isinstance(place.inode, Ext4Inode))


def test_a_value_in_an_inode_of_its_own_is_read(tmp_path: Path) -> None:
    content = disks.fill(tmp_path / "content", {"f": "x"})
    os.setxattr(content / "f", "user.large", bytes(range(250)) * 12)
    path = disks.file_system(tmp_path / "disk", content, "-O", "ea_inode", "-b", "1024")
    with RawFile(path) as source:
        place = Tree(root_of(Ext4(source))).find("/f")
        assert place and place.file_system.attribute_values(place.inode) == {"user.large": bytes(range(250)) * 12}
