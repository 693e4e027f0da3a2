"""A file system that e2fsck finds sound is read, whatever its blocks, clusters and places of group descriptors are."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifsea_testbed.disk.ext4 import Ext4
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
