"""Each kind of file system is read with names, modes, owners, attributes, links and holes as Linux has them."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.inodes import FileSystem
from lifsea_testbed.disk.probe import file_system
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.errors import DiskDamaged, NotJudged
from tests.fuzz.file_systems import Bytes
from tests.support import disks

LARGE = bytes(range(256)) * 4000
TEXT = b"".join(b"%d: a line of text that compresses well\n" % number for number in range(40_000))
#: How each kind is made: the program and its options.
KINDS = {
    "squashfs": ("gzip",), "squashfs-xz": ("xz",), "squashfs-lz4": ("lz4",),
    "squashfs-plain": ("plain",),
    "erofs": (), "erofs-chunks": ("--chunksize=65536",), "xfs": (), "xfs-4": ("-m", "crc=0"),
    "xfs-1k": ("-b", "size=1024"), "xfs-large-directories": ("-n", "size=16384"),
    "btrfs": (), "btrfs-4k": ("-n", "4096"), "btrfs-mixed": ("--mixed",), "ext4": (),
}  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = disks.fill(tmp_path_factory.mktemp("content"), {
        "etc/os-release": "ID=x\n", "large": LARGE, "text": TEXT, "small*": "#!/bin/sh\n", "empty": "",
        "su!": "x" * 5000, "link": "-> etc/os-release", "a/long/link": f"-> {'../' * 30}{'n' * 200}", "sparse": b"",
        **{f"many/{'name' * 10}{number}": str(number) for number in range(1500)},
    })  # fmt: skip
    with (made / "sparse").open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"end")
    (made / "owned").write_text("o")
    os.chown(made / "owned", 70000, 1234)
    os.setxattr(made / "owned", "user.short", b"value")
    os.setxattr(made / "owned", "user.long", b"v" * 900)
    os.setxattr(made / "small", "user.short", b"value")
    disks.run("setcap", "cap_net_raw+ep", made / "small")
    return made


def tree_of(source: Bytes | RawFile) -> Tree:
    system = file_system(source)
    assert system is not None
    return Tree(root_of(system))


@pytest.fixture(scope="module")
def made(content: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("made")
    return {name: disks.made_of(name.partition("-")[0], place / name, content, *options)
            for name, options in KINDS.items()}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_what_it_was(made: dict[str, Path], content: Path, kind: str) -> None:
    with RawFile(made[kind]) as source:
        tree = tree_of(source)
        found = {str(path): place for path, place in tree.walk() if path != PurePosixPath("/lost+found")}
        wanted = {f"/{path.relative_to(content)}": path for path in content.rglob("*")}
        assert found.keys() == wanted.keys()
        for name, path in wanted.items():
            place, status = found[name], path.lstat()
            assert (place.inode.mode, place.inode.user, place.inode.group) == (status.st_mode, status.st_uid,
                                                                               status.st_gid), name  # fmt: skip
            if place.is_regular:
                assert place.inode.size == status.st_size and place.read() == path.read_bytes(), name
            elif place.is_link:
                assert place.file_system.link_target(place.inode) == str(path.readlink())
            names = [] if kind.startswith("xfs") else os.listxattr(path, follow_symlinks=False)
            assert place.file_system.attribute_values(place.inode) == {
                each: os.getxattr(path, each, follow_symlinks=False) for each in sorted(names)}, name  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_file_is_read(made: dict[str, Path], kind: str) -> None:
    with RawFile(made[kind]) as source:
        tree = tree_of(source)
        for name, whole in (("/text", TEXT), ("/large", LARGE), ("/sparse", bytes(3 << 20) + b"end")):
            place = tree.find(name)
            assert place is not None
            for start in (0, 1, 4095, 4096, 131071, 500_000, len(whole) - 7):
                assert place.part(start, 5000) == whole[start:start + 5000], (name, start)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_system_ends_in_an_error_or_an_answer(made: dict[str, Path], kind: str) -> None:
    """The fuzzer changes small ones; here whole blocks of a large one are another's."""
    data = bytearray(made[kind].read_bytes()[:4 << 20])
    for number in range(2 << 16, len(data) - 8192, 3 << 14):
        data[number:number + 4096] = data[number + 4096:number + 8192]
    try:
        tree = tree_of(Bytes(bytes(data)))
        for _, place in tree.walk():
            _ = place.is_regular and place.read(), place.file_system.attributes(place.inode)
    except (DiskDamaged, NotJudged):
        pass


@pytest.mark.parametrize(("kind", "names"), [("xfs", ("-L", "a-label")), ("btrfs", ("-L", "a-label")),
                                             ("erofs", ())])  # fmt: skip
def test_a_file_system_has_the_names_that_fstab_knows(tmp_path: Path, kind: str, names: tuple[str, ...]) -> None:
    root = disks.fill(tmp_path / "root", {"f": ""})
    path = disks.made_of(kind, tmp_path / "disk", root, *names)
    printed = disks.run("blkid", "-p", "-o", "export", path).split("\n")
    shown = dict(line.split("=", 1) for line in printed if "=" in line)
    with RawFile(path) as source:
        system: FileSystem[Any] | None = file_system(source)
        assert system is not None
        assert (system.identifier, system.label) == (shown["UUID"].lower(), shown.get("LABEL", ""))


@pytest.mark.parametrize(("kind", "options", "reason"), [
    ("squashfs", ("zstd",), "compressed by zstd"), ("squashfs", ("lzo",), "compressed by lzo"),
    ("erofs", ("-zlz4",), "keeps files compressed"),
])  # fmt: skip
def test_what_is_not_read_is_not_judged(tmp_path: Path, kind: str, options: tuple[str, ...], reason: str) -> None:
    root = disks.fill(tmp_path / "root", {"f": TEXT})
    with RawFile(disks.made_of(kind, tmp_path / "disk", root, *options)) as source, \
            pytest.raises(NotJudged, match=reason):  # fmt: skip
        tree_of(source).read("/f")


@pytest.mark.parametrize("options", [(), ("-m", "crc=0"), ("-b", "size=1024")], ids=str)
def test_attributes_of_xfs_are_read(tmp_path: Path, options: tuple[str, ...]) -> None:
    """xfs_db fills values with the letter v; in inodes, in a leaf, in blocks of their own, and in a tree of leaves."""
    path = disks.made_of("xfs", tmp_path / "disk", disks.fill(tmp_path / "root", {"f": "x"}), *options)
    for count, size in ((2, 5), (4, 300), (5, 3000), (200, 70)):
        wanted = {f"user.a{count}-{number}": size for number in range(count)}
        commands = [f"attr_set -u -v {size} {name.removeprefix('user.')}" for name in wanted]
        disks.run("xfs_db", "-x", *[word for command in ["path /f", *commands, "attr_set -s -v 4 label",
                                                         "attr_set -r -v 4 mark"] for word in ("-c", command)], path)
        with RawFile(path) as source:
            place = tree_of(source).find("/f")
            assert place is not None
            found = place.file_system.attribute_values(place.inode)
        assert {"security.label", "trusted.mark"} <= found.keys()
        assert {name: len(found.get(name, b"")) for name in wanted} == wanted


def test_a_long_link_of_xfs_has_blocks_with_headers(tmp_path: Path) -> None:
    """mkfs.xfs leaves the headers out, which is damage to Linux as well."""
    target = f"{'../' * 100}{'n' * 200}"
    path = disks.made_of("xfs", tmp_path / "disk", disks.fill(tmp_path / "root", {"link": f"-> {target}"}))
    data = bytearray(path.read_bytes())
    place = tree_of(Bytes(bytes(data))).find("/link", follow=False)
    assert place is not None
    with pytest.raises(DiskDamaged, match="blocks are another's"):
        place.file_system.link_target(place.inode)
    start = data.index(target.encode())
    data[start:start + 56 + len(target)] = b"XSLM".ljust(56, b"\1") + target.encode()
    place = tree_of(Bytes(bytes(data))).find("/link", follow=False)
    assert place and place.file_system.link_target(place.inode) == target


def test_a_log_of_xfs_that_is_not_in_its_place_is_not_judged(tmp_path: Path) -> None:
    path = disks.made_of("xfs", tmp_path / "disk", disks.fill(tmp_path / "root", {"f": "x"}))
    data = bytearray(path.read_bytes())
    record = data.index(b"\xfe\xed\xba\xbe")
    data[record + 512 + 9] = 0
    with pytest.raises(NotJudged, match="the system was not shut down"):
        file_system(Bytes(bytes(data)))


def test_modes_are_whole(made: dict[str, Path]) -> None:
    with RawFile(made["squashfs"]) as source:
        place = tree_of(source).find("/su")
        assert place and stat.S_IMODE(place.inode.mode) == 0o4755
