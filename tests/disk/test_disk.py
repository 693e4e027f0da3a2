"""Disks are read offline as the system that boots from them sees them; hostile disks do no harm."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lifsea_testbed.disk import image, inodes, journal
from lifsea_testbed.disk.ext4 import Ext4
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.partitions import partitions
from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.disk.source import RawFile, Window
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.guest import offline
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.open_disk import OpenDisk
from lifsea_testbed.guest.packages import Package
from lifsea_testbed.profiles import profile
from tests.support import ROOT, disks
from tests.support.fakes import FakeShell

STATUS = "Package: a\nStatus: install ok installed\nVersion: 1\n"
SYSTEM: dict[str, str | bytes] = {
    "usr/lib/os-release": 'ID=x\nNAME="X (y)"\n', "etc/os-release": "-> ../usr/lib/os-release",
    "bin": "-> usr/bin", "lib": "-> usr/lib", "home": "-> var/home", "usr/bin/dash*": "#!", "usr/bin/sh": "-> dash",
    "usr/bin/su!": "", "usr/bin/data": "", "run/left*": "", "etc/shadow": "root:*:1::\nadmin::1::\n",
    "usr/lib/systemd/system/sshd@.service": "", "etc/systemd/system/multi-user.target.wants/x.service": "",
}  # fmt: skip
OSTREE = "ostree/deploy/os/deploy/c0ffee.0"
ENTRY = "title x\nversion {version}\nlinux /vmlinuz\noptions root=/dev/vda2 ro ostree=/ostree/boot.1/os/b00/{serial}\n"


def judged(path: Path, *layers: Path) -> offline.OfflineTree:
    return offline.read(image.examine(path), *layers)


def without_shell(tree: offline.OfflineTree) -> Guest:
    return Guest(FakeShell({}), lambda: profile.load("reference"), lambda: tree)


def below(directory: str, files: Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    return {f"{directory}/{name}": content for name, content in files.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk as of an ordinary server, /boot being mounted by its label."""
    made = tmp_path_factory.mktemp("plain")
    fstab = "LABEL=boot /boot ext4 defaults 0 2\n"
    root = disks.fill(made / "root", {**SYSTEM, "etc/fstab": fstab, "boot/x": "", "var/lib/dpkg/status": STATUS,
                                      "etc/large": b"0123456789abcdef" * 65536})  # fmt: skip
    boot = disks.fill(made / "boot", {"grub2/grub.cfg": "linux /vmlinuz\n\tinitrd /initrd.img\n"})
    return disks.disk(made / "disk.raw", root=root, boot=boot)


def test_an_ordinary_system_is_read(plain: Path) -> None:
    guest = without_shell(judged(plain))
    assert guest.system.os_release() == {"ID": "x", "NAME": "X (y)"}
    assert guest.packages.installed() == [Package(name="a", version="1")]
    assert guest.files.executables_named([".*"]) == ["/usr/bin/dash", "/usr/bin/su"]
    assert guest.files.executables_holding(["(", "#!"]) == ["/usr/bin/dash"]
    assert guest.files.setuid() == ["/usr/bin/su"]
    assert guest.units.named(r".*\.service") == ["sshd@.service"]
    assert guest.kernel.initramfs_signs() == ["/boot/grub2/grub.cfg:\tinitrd /initrd.img"]
    assert guest.accounts.with_password() == ["admin"]
    assert guest.system.has_posix_shell() and guest.files.link_target("/home/x") == "/var/home/x"


@pytest.mark.parametrize("options", [(), ("-c",), ("-o", "cluster_size=512"), ("-c", "-o", "cluster_size=2M")], ids=str)
def test_a_qcow2_disk_holds_what_the_raw_one_does(plain: Path, options: tuple[str, ...]) -> None:
    path = disks.qcow2(plain, *options)
    with RawFile(path) as file:
        disk = Qcow2(file)
        assert disk.read_at(0, disk.size) == plain.read_bytes()
        with pytest.raises(DiskDamaged):
            disk.read_at(disk.size - 1, 2)


def test_an_overlay_lies_above_the_image(plain: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.raw"
    root = disks.fill(tmp_path / "root", {"etc/os-release": "ID=new\n"})
    disks.disk(changed, root=root)
    overlay = disks.overlay_with(tmp_path / "overlay.qcow2", changed, plain)
    assert judged(disks.qcow2(plain), overlay).os_release() == {"ID": "new"}
    assert judged(plain, overlay).os_release() == {"ID": "new"}


@pytest.mark.parametrize("options", [
    ("-b", "1024"), ("-b", "4096"), ("-O", "^extent,^64bit"), ("-t", "ext2"), ("-g", "256", "-b", "1024"),
    ("-O", "meta_bg,^resize_inode", "-b", "1024", "-g", "256"), ("-O", "^metadata_csum,^flex_bg", "-I", "128"),
], ids=str)  # fmt: skip
def test_each_kind_of_ext4_is_read(tmp_path: Path, options: tuple[str, ...]) -> None:
    large = bytes(range(256)) * 20000
    made = disks.fill(tmp_path / "root", {"large": large, "sparse": b""})
    disks.fill(made, {f"d/{'n' * 200}{number}": str(number) for number in range(400)})
    with (made / "sparse").open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"end")
    (made / "long").symlink_to("d/" + "n" * 200 + "7")
    with RawFile(disks.file_system(tmp_path / "fs", made, *options)) as source:
        tree = Tree(root_of(Ext4(source)))
        assert tree.read("/large") == large and tree.read("/long") == b"7"
        assert tree.read("/sparse") == bytes(3 << 20) + b"end"
        assert len(tree.names("/d")) == 400 and tree.read("/d/../large") == large


def test_other_file_systems_are_not_judged(plain: Path, tmp_path: Path) -> None:
    other = bytearray(plain.read_bytes())
    for start in (1 << 20, 17 << 20):
        other[start:start + 4096] = b"LUKS\xba\xbe" + bytes(4090)
    path = tmp_path / "luks.raw"
    path.write_bytes(other)
    with pytest.raises(NotJudged, match="partition 1 holds LUKS; partition 2 holds LUKS"):
        judged(path)


def test_a_feature_that_is_not_known_is_not_judged(tmp_path: Path) -> None:
    path = disks.disk(tmp_path / "disk.raw", root=disks.fill(tmp_path / "root", SYSTEM))
    with path.open("r+b") as file:
        file.seek((17 << 20) + 1024 + 0x60)
        file.write((0x2 | 0x40 | 0x1000 | 0x40000000).to_bytes(4, "little"))
    with pytest.raises(NotJudged, match="not read offline: dirdata, incompat 0x40000000"):
        judged(path)


def test_the_partitions_of_an_mbr_are_found(tmp_path: Path) -> None:
    path = disks.disk(tmp_path / "disk.raw", root=disks.fill(tmp_path / "root", SYSTEM), label="dos")
    assert judged(path).os_release()["ID"] == "x"
    with RawFile(path) as disk:
        assert [(each.number, each.content.size) for each in partitions(disk)] == [(1, 16 << 20), (2, 16 << 20)]


# ostree


def ostree(directory: Path, entries: Mapping[str, str], *, at: str = "boot") -> Path:
    """A disk with one deployment, that of serial 0, and the boot entries given."""
    links: dict[str, str | bytes] = {"ostree/boot.1": "-> boot.1.1",
                                     "ostree/boot.1.1/os/b00/0": f"-> ../../../../{OSTREE}"}  # fmt: skip
    deployed = {**SYSTEM, "ostree": "-> sysroot/ostree", "sysroot/x": "", "var/x": "", "boot/x": ""}
    var: dict[str, str | bytes] = {"ostree/deploy/os/var/tool*": "", "ostree/repo/objects/00/x.file*": ""}
    loader = {"loader": "-> loader.1", **{f"loader.1/entries/{name}.conf": text for name, text in entries.items()}}
    root = disks.fill(directory / "root", {**links, **below(OSTREE, deployed), **var,
                                           **(below("boot", loader) if at == "root" else {})})  # fmt: skip
    boot = disks.fill(directory / "boot", loader) if at == "boot" else None
    return disks.disk(directory / "disk.raw", root=root, boot=boot)


@pytest.mark.parametrize("at", ["boot", "root"])
def test_the_deployment_that_boots_next_is_read(tmp_path: Path, at: str) -> None:
    entries = {"ostree-2-os": ENTRY.format(version=2, serial=0), "ostree-1-os": ENTRY.format(version=1, serial=9)}
    content = judged(ostree(tmp_path, entries, at=at))
    assert content.os_release()["ID"] == "x"
    guest = without_shell(content)
    assert guest.files.executables_named([".*"]) == ["/usr/bin/dash", "/usr/bin/su", "/var/tool"]
    assert guest.kernel.initramfs_signs() == []
    with (tmp_path / "disk.raw").open("rb") as file:
        tree = OpenDisk("raw", [file.fileno()]).tree
        assert tree.names("/boot/loader/entries") == ["ostree-1-os.conf", "ostree-2-os.conf"]
        assert tree.names("/ostree/deploy") == ["os"]


def test_a_deployment_that_is_not_there_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DiskDamaged, match=r"/ostree/boot\.1/os/b00/9"):
        judged(ostree(tmp_path, {"ostree-1-os": ENTRY.format(version=1, serial=9)}))


def test_a_deployment_that_may_lie_where_nothing_is_read_is_not_judged(tmp_path: Path) -> None:
    path = ostree(tmp_path, {"ostree-1-os": ENTRY.format(version=1, serial=0)})
    with path.open("r+b") as file:
        file.seek(17 << 20)
        file.write(b"LUKS\xba\xbe" + bytes(4090))
    with pytest.raises(NotJudged, match="partition 2 holds LUKS"):
        judged(path)


def test_a_disk_without_a_system_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(NotJudged, match="no partition that is read offline"):
        judged(disks.disk(tmp_path / "disk.raw", root=disks.fill(tmp_path / "root", {"x": ""})))


# The journal


def test_what_the_journal_holds_is_newer_than_the_disk(tmp_path: Path) -> None:
    disk = disks.file_system(tmp_path / "fs", disks.fill(tmp_path / "root", {"f": "old"}), "-b", "1024")
    place = disks.run("debugfs", "-R", "blocks /f", disk).split()[0]
    new = tmp_path / "block"
    new.write_bytes(journal.MAGIC + b"new".ljust(1020))
    commands = tmp_path / "commands"
    commands.write_text(f"jo\njw -b {place} {new}\njc\n")
    disks.run("debugfs", "-w", "-f", commands, disk)
    with RawFile(disk) as source:
        assert Tree(root_of(Ext4(source))).read("/f") == journal.MAGIC[:3]


def log(*blocks: tuple[int, int, bytes]) -> tuple[dict[int, bytes], dict[int, int]]:
    """A journal of 64-bit block numbers at block 100 of a disk: kind, sequence and content of each block."""
    head = struct.pack(">4s10I", journal.MAGIC, 4, 0, 512, 20, 1, 7, 1, 0, 0, 2)
    rows = [struct.pack(">4sII", journal.MAGIC, kind, sequence) + content if kind else content
            for kind, sequence, content in blocks]  # fmt: skip
    content = {100 + number: row.ljust(512, b"\0") for number, row in enumerate([head, *rows, *[b""] * 18])}
    return content, {number: number + 100 for number in range(20)}


def tag(block: int, flags: int) -> bytes:
    return struct.pack(">IHHI", block, 0, flags, 0) + (b"" if flags & 2 else bytes(16))


def test_only_what_was_committed_counts() -> None:
    disk, places = log((1, 7, tag(50, 0) + tag(51, 2 | 8)), (0, 0, b"a"), (0, 0, b"b"), (2, 7, b""),
                       (1, 8, tag(50, 8 | 1)), (0, 0, b"c"), (5, 8, struct.pack(">IQ", 24, 51)), (2, 8, b""),
                       (1, 9, tag(52, 8)), (0, 0, b"d"))  # fmt: skip
    assert journal.newer_blocks(disk.__getitem__, places) == {50: journal.JournalBlock(block=106, escaped=True)}


def test_a_recovery_goes_by_headers_and_by_what_was_committed() -> None:
    """And by the block at which it stops; the content of transactions without a commit is skipped."""
    disk, places = log((1, 7, tag(50, 0) + tag(51, 2 | 8)), (0, 0, b"a"), (0, 0, b"b"), (2, 7, b""), (1, 8, tag(50, 8)),
                       (0, 0, b"c"), (0, 0, b"no header"), (2, 8, b""))  # fmt: skip
    assert journal.read_by_recovery(disk.__getitem__, places) == {*range(100, 106), 107}


def test_checksums_over_whole_transactions_have_all_looked_at() -> None:
    disk, places = log((1, 7, tag(50, 8)), (0, 0, b"a"))
    disk[100] = disk[100][:36] + struct.pack(">I", 1) + disk[100][40:]
    with pytest.raises(NotJudged, match="never committed"):
        journal.read_by_recovery(disk.__getitem__, places)


def test_a_journal_that_ends_too_early_is_damage() -> None:
    disk, _ = log((1, 7, tag(50, 8)), (0, 0, b"a"), (2, 7, b""))
    with pytest.raises(DiskDamaged):
        journal.newer_blocks(disk.__getitem__, {0: 100, 1: 101})


# Hostile disks


def test_no_link_leads_out_of_the_tree_or_on_for_ever(tmp_path: Path) -> None:
    root = disks.fill(tmp_path / "root", {"a": "-> b", "b": "-> a", "up": "-> ../../../etc/x", "etc/x": "inside",
                                          "etc/self": "-> self/self"})  # fmt: skip
    with RawFile(disks.file_system(tmp_path / "fs", root)) as source:
        tree = Tree(root_of(Ext4(source)))
        assert tree.read("/up") == b"inside" and tree.read("/../../etc/x") == b"inside"
        assert tree.read("/a") is None and tree.read("/etc/self") is None


def test_a_directory_within_itself_has_an_end(tmp_path: Path) -> None:
    disk = disks.file_system(tmp_path / "fs", disks.fill(tmp_path / "root", {"d/x": ""}))
    disks.run("debugfs", "-w", "-R", "link / /d/root", disk)
    with RawFile(disk) as source, pytest.raises(NotJudged, match="deeper"):
        list(Tree(root_of(Ext4(source))).walk())


def test_directories_that_are_listed_again_and_again_have_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inodes, "_MOST_LISTED", 1 << 16)
    disk = disks.file_system(tmp_path / "fs", disks.fill(tmp_path / "root", {"d/x": ""}))
    disks.run("debugfs", "-w", "-R", "link / /d/root", disk)
    with RawFile(disk) as source, pytest.raises(NotJudged, match="the directories hold more"):
        list(Tree(root_of(Ext4(source))).walk())


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    disk = disks.file_system(tmp_path / "fs", disks.fill(tmp_path / "root", {"f": "x"}))
    disks.run("debugfs", "-w", "-R", f"set_inode_field /f size {1 << 40}", disk)
    with RawFile(disk) as source, pytest.raises(NotJudged, match="at most 268435456 are read offline"):
        Tree(root_of(Ext4(source))).read("/f")


def test_a_damaged_disk_is_said_to_be_one(plain: Path, tmp_path: Path) -> None:
    """After any change of a file system's tables the result is content, damage, or not judged."""
    sound, dice = disks.root_partition(plain), random.Random(7)
    path, verdicts = tmp_path / "fs", set[str]()
    for _ in range(150):
        broken = bytearray(sound)
        for _ in range(dice.choice((1, 20))):
            start = dice.choice((1024, 4096, 8192, dice.randrange(1 << 20)))
            broken[start + dice.randrange(1024)] = dice.randrange(256)
        path.write_bytes(broken)
        verdicts.add(verdict(path))
    assert verdicts >= {"read", "DiskDamaged", "NotJudged"}


def verdict(path: Path) -> str:
    with RawFile(path) as source:
        try:
            tree = Tree(root_of(Ext4(Window(source, 0, source.size))))
            for _, place in tree.walk():
                _ = place.is_regular and place.file_system.read(place.inode, 1 << 22)
            tree.read("/etc/os-release")
        except (DiskDamaged, NotJudged) as error:
            return type(error).__name__
    return "read"


@pytest.mark.parametrize(("place", "change"), [
    (20, b"\xff" * 4), (36, b"\0" * 4), (40, b"\xff" * 8), (72, b"\0" * 7 + b"\2"),
])  # fmt: skip
def test_a_damaged_qcow2_disk_is_said_to_be_one(plain: Path, place: int, change: bytes) -> None:
    path = disks.qcow2(plain)
    broken = bytearray(path.read_bytes())
    broken[place:place + len(change)] = change
    path.write_bytes(broken)
    with RawFile(path) as file, pytest.raises(DiskDamaged):
        Qcow2(file)


@pytest.mark.parametrize(("bit", "error"), [
    (1, DiskDamaged), (2, NotJudged), (3, NotJudged), (4, NotJudged), (5, NotJudged), (63, NotJudged),
])  # fmt: skip
def test_a_qcow2_disk_with_a_feature_that_is_not_read_is_refused(plain: Path, bit: int, error: type[Exception]) -> None:
    path = disks.qcow2(plain)
    changed = bytearray(path.read_bytes())
    changed[72:80] = (int.from_bytes(changed[72:80]) | 1 << bit).to_bytes(8)
    path.write_bytes(changed)
    with RawFile(path) as file, pytest.raises(error):
        Qcow2(file)


# The guest without a shell


def test_a_guest_without_a_shell_tells_what_its_disk_holds(plain: Path) -> None:
    guest = without_shell(judged(plain))
    assert guest.files.executables_named(["su"]) == ["/usr/bin/su"] and len(guest.packages.installed()) == 1
    assert guest.system.os_release()["ID"] == "x" and guest.system.has_posix_shell()


@pytest.mark.nightly
def test_the_reference_image_is_read_as_it_is() -> None:
    root = ROOT
    path = root / "build/reference.qcow2"
    subprocess.run([sys.executable, "-m", "images", "build", "reference", "-o", str(path)], cwd=root, check=True)
    guest = without_shell(judged(path))
    bounds = profile.load("reference").packages
    assert bounds.least <= len(guest.packages.installed()) <= bounds.most
    assert guest.files.executables_named(["kubelet", "sshd"]) == ["/usr/bin/kubelet"]
    assert guest.units.named(r"sshd?\.service") == [] and guest.kernel.initramfs_signs() == []
    assert guest.files.link_target("/home") == "/var/home" and guest.accounts.with_password() == []
