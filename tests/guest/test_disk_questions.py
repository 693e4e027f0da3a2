"""A confined reader answers what the disk holds, says in one line what is too large, and can do nothing else."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sqlite3
import struct
from pathlib import Path

import psutil
import pytest

from lifsea_testbed.disk import image
from lifsea_testbed.disk.ext4 import Ext4Inode
from lifsea_testbed.disk.filesystem import TreeEntry
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.errors import DiskDamaged, NotJudged, ProfileRefused
from lifsea_testbed.guest import offline
from lifsea_testbed.guest.open_disk import OpenDisk
from lifsea_testbed.machine import preflight
from tests.support import disks
from tests.support.fakes import FakeShell

MIB = 1 << 20


def tree_of(path: Path) -> offline.OfflineTree:
    return offline.read(image.examine(path))


def files_of(path: Path) -> offline.OfflineFiles:
    tree = tree_of(path)
    return offline.OfflineFiles(FakeShell({}), lambda: tree)


def made(place: Path, files: dict[str, str | bytes], *commands: str) -> Path:
    """A disk with those files and an os-release, changed by commands of debugfs."""
    root = disks.fill(place / "root", {"etc/os-release": "ID=x\n", **files})
    path = disks.disk(place / "disk.raw", root=root, options=("-b", "4096"))
    for command in commands:
        disks.run("debugfs", "-w", "-f", "-", f"{path}?offset={17 * MIB}", given=f"{command}\n")
    return path


def test_a_long_line_of_a_release_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = made(tmp_path, {"etc/os-release": "ID=" + "a" * (3 * MIB) + "\n"})
    with pytest.raises(ProfileRefused, match=r"/etc/os-release has 3145732 bytes; at most 65536 are read offline"):
        preflight.choose_profile("auto", image.examine(path))


@pytest.mark.parametrize("value", ['"' * 65000, "'a'" * 20000, "\\a" * 30000, '"a" ' * 16000], ids=len)
def test_a_release_file_is_read_in_the_time_of_its_length(tmp_path: Path, value: str) -> None:
    """A limit of processor time ends the reader of a quadratic parser."""
    assert tree_of(made(tmp_path, {"etc/os-release": f"ID=x\nNAME={value}\n"})).os_release()["ID"] == "x"


def test_a_view_of_a_package_database_is_damage(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("CREATE VIEW Packages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                       "LIMIT 1000) SELECT zeroblob(900000000) AS blob FROM n")  # fmt: skip
    connection.close()
    path = made(tmp_path, {"var/lib/rpm/rpmdb.sqlite": (tmp_path / "db").read_bytes()})
    tree = tree_of(path)
    with pytest.raises(DiskDamaged, match="no table of packages"):
        offline.OfflinePackages(FakeShell({}), [], lambda: tree).installed()


def test_links_that_multiply_have_an_end(tmp_path: Path) -> None:
    links: dict[str, str | bytes] = {"x": "-> .", "l0": f"-> {'x/' * 1900}"}
    links |= {f"l{number}": f"-> l{number - 1}/{'x/' * 1900}" for number in range(1, 40)}
    assert files_of(made(tmp_path, links)).link_target("/l39/end").startswith("/")


def test_a_link_longer_than_any_path_is_damage(tmp_path: Path) -> None:
    path = made(tmp_path, {"long": f"-> {'x' * 4000}"}, "set_inode_field /long size 4096")
    with pytest.raises(DiskDamaged, match="4095 are the most"):
        files_of(path).link_target("/long")


def test_files_that_share_their_blocks_are_damage(tmp_path: Path) -> None:
    """A thousand files of all blocks of the disk each are no more to read than the disk."""
    links = [f"ln /large /many/{number}" for number in range(3)]
    content = os.urandom(9 * MIB)
    path = made(tmp_path, {"large*": b"\x7fELF" + content, "second*": "x", "many/x": ""}, *links)
    shared = made(tmp_path / "shared", {"large*": b"\x7fELF" + content, "second*": "x" * 100})
    assert files_of(path).executables_holding(["a mark that is not there"]) == []
    share(shared, "/large", "/second")
    with pytest.raises(DiskDamaged, match="they share blocks"):
        files_of(shared).executables_holding(["a mark that is not there"])


def share(path: Path, given: str, taken: str) -> None:
    """Lets the second file have the blocks of the first as well."""
    with RawFile(path) as source:
        tree = OpenDisk("raw", [source.descriptor]).tree
        inodes = [ext4_inode(place) for place in (tree.find(given), tree.find(taken)) if place]
    content = bytearray(path.read_bytes())
    place = content.index(inodes[1].block)
    content[place:place + 60] = inodes[0].block
    content[place - 36:place - 32] = inodes[0].size.to_bytes(4, "little")  # i_size_lo, 36 bytes before i_block
    path.write_bytes(content)


def test_a_giant_directory_is_not_walked(tmp_path: Path) -> None:
    """A file of the entries of a directory, each of the shortest length, is made one."""
    names = (bytes(name) for name in itertools.product(b"abcdefghijklmnopqrstuvwxyz", repeat=4))
    entries = b"".join(struct.pack("<IHBB4s", 12, 12, 4, 1, name) for name in itertools.islice(names, 340))
    block = entries + struct.pack("<IHBB8s", 12, 16, 4, 1, b"last")
    path = made(tmp_path, {"giant": block * (6 * MIB // 4096), "second": "x"})
    become_directory(path, "/giant")
    with pytest.raises(NotJudged, match=rf"a directory has {6 * MIB} bytes; at most {4 * MIB} are read offline"):
        files_of(path).setuid()


def ext4_inode(place: TreeEntry) -> Ext4Inode:
    assert isinstance(place.inode, Ext4Inode)
    return place.inode


def become_directory(path: Path, name: str) -> None:
    with RawFile(path) as source:
        place = OpenDisk("raw", [source.descriptor]).tree.find(name)
    content = bytearray(path.read_bytes())
    assert place is not None
    start = content.index(ext4_inode(place).block)
    content[start - 40:start - 38] = (0o40755).to_bytes(2, "little")  # i_mode, 40 bytes before i_block
    path.write_bytes(content)


def test_a_mark_is_found_across_the_pieces_of_a_file(tmp_path: Path) -> None:
    content = b"\x7fELF".ljust(4 * MIB - 3, b".") + b"the mark"
    path = made(tmp_path, {"bin/tool*": content, "bin/sparse*": b"\x7fELF"})
    assert files_of(path).executables_holding(["the mark"]) == ["/bin/tool"]


def test_a_kernel_is_read_in_parts(tmp_path: Path) -> None:
    kernel = os.urandom(5 * MIB)
    path = made(tmp_path, {"boot/loader/entries/a.conf": "title a\nlinux /vmlinuz\noptions quiet ro\n",
                           "boot/vmlinuz": kernel})  # fmt: skip
    tree = tree_of(path)
    entry = tree.first_entry()
    assert b"".join(tree.content(entry.kernel)) == kernel and entry.options == ("quiet", "ro")


def test_names_that_are_not_utf_8_come_through(tmp_path: Path) -> None:
    root = disks.fill(tmp_path / "root", {"etc/os-release": "ID=x\n"})
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xff")).write_text("x")
    path = disks.disk(tmp_path / "disk.raw", root=root)
    assert files_of(path).matching(["bad*"]) == ["/bad\udcff"]


def test_a_reader_has_no_privileges(tmp_path: Path) -> None:
    """Neither root's user nor its capabilities, no new ones, no network, no further process, no file to write."""
    path, before = made(tmp_path, {}), set(psutil.Process().children())
    files = files_of(path)
    files.setuid()
    (child,) = set(psutil.Process().children()) - before
    place = Path(f"/proc/{child.pid}")
    rows = (line.partition(":\t") for line in (place / "status").read_text().splitlines())
    status = {name: value for name, _, value in rows}
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0 and status["NoNewPrivs"] == "1"
    limits = (place / "limits").read_text()
    for name, value in (("Max address space", 512 * MIB), ("Max file size", 0), ("Max processes", 0)):
        assert re.search(rf"^{name} +{value} +{value} ", limits, re.MULTILINE)
    if os.geteuid() == 0:
        assert "0" not in status["Uid"].split() + status["Gid"].split() and status["Groups"].strip() == ""
        assert (place / "ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        names = {row.partition(b"=")[0] for row in (place / "environ").read_bytes().split(b"\0")}
        assert names <= {b"PATH", b"LANG", b""}


@pytest.mark.nightly
def test_a_limit_of_memory_is_one_line_and_the_next_question_is_answered(tmp_path: Path) -> None:
    files = files_of(made(tmp_path, {"bin/tool*": "x"}))
    with pytest.raises(NotJudged, match=r"disk.raw: the names of its files took more than 512 MiB of memory"):
        files.executables_named(["a" * 7_500_000])
    assert files.executables_named(["tool"]) == ["/bin/tool"]


@pytest.mark.parametrize(("number", "error", "complaint"), [
    (signal.SIGXCPU, NotJudged, r"disk.raw: the names of its files took more than 60 s of processor time"),
    (signal.SIGSEGV, DiskDamaged, r"disk.raw: the names of its files ended its reader by SIGSEGV"),
])  # fmt: skip
def test_a_reader_that_is_ended_is_one_line(tmp_path: Path, number: int, error: type[Exception],
                                            complaint: str) -> None:  # fmt: skip
    path, before = made(tmp_path, {"bin/tool*": "x"}), set(psutil.Process().children())
    files = files_of(path)
    files.setuid()
    (child,) = set(psutil.Process().children()) - before
    child.send_signal(number)
    with pytest.raises(error, match=complaint):
        files.executables_named(["tool"])
    assert files.executables_named(["tool"]) == ["/bin/tool"]
