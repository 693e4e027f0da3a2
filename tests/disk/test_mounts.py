"""Whatever a disk holds is found where the system mounts it, by whichever name; what cannot be read is not absent."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lifsea_testbed.disk import image
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest import offline
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.profiles import profile
from tests.support import disks
from tests.support.fakes import FakeShell

RELEASE = {"etc/os-release": "ID=x\n", "etc/passwd": "", "opt/x": ""}
UNIT = "[Mount]\nWhat={what}\nWhere=/opt\nType=ext4\n"


def guest(path: Path) -> Guest:
    tree = offline.read(image.examine(path))
    return Guest(FakeShell({}), lambda: profile.load("reference"), lambda: tree)


def disk(directory: Path, files: dict[str, str], kind: str = "") -> Path:
    """A disk with a program on its first partition, which is called `extra data` and has the label `boot`."""
    root = disks.fill(directory / "root", {**RELEASE, **files})
    path = disks.disk(directory / "disk.raw", root=root, boot=disks.fill(directory / "other", {"bin/python3*": ""}))
    subprocess.run(["sfdisk", "--quiet", "--part-label", path, "1", "extra data"], check=True)
    if kind:
        subprocess.run(["sfdisk", "--quiet", "--part-type", path, "1", kind], check=True)
    return path


def found(path: Path) -> list[str]:
    return guest(path).files.executables_named(["python3"])


@pytest.mark.parametrize("name", [
    "LABEL=boot", "PARTLABEL=extra\\040data", "/dev/disk/by-label/boot", "/dev/disk/by-partlabel/extra\\x20data",
    "/dev/disk/by-path/pci-0000:00:06.0-part1", "/dev/disk/by-id/virtio-abc-part1", "/dev/vda1", "/dev/nvme0n1p1",
])  # fmt: skip
def test_a_partition_is_known_by_each_of_its_names(tmp_path: Path, name: str) -> None:
    assert found(disk(tmp_path, {"etc/fstab": f"{name} /opt ext4 defaults 0 2\n"})) == ["/opt/bin/python3"]


def test_a_partition_is_known_by_its_identifiers(tmp_path: Path) -> None:
    path = disk(tmp_path, {})
    shown = subprocess.check_output(["sfdisk", "--part-uuid", path, "1"], text=True).strip()
    again = disk(tmp_path / "again", {"etc/fstab": f"PARTUUID={shown} /opt ext4 defaults 0 2\n"})
    subprocess.run(["sfdisk", "--quiet", "--part-uuid", again, "1", shown], check=True)
    assert found(again) == ["/opt/bin/python3"]


@pytest.mark.parametrize("place", ["etc/systemd/system", "usr/lib/systemd/system"])
def test_a_mount_unit_mounts(tmp_path: Path, place: str) -> None:
    unit = UNIT.format(what="/dev/disk/by-label/boot")
    assert found(disk(tmp_path, {f"{place}/opt.mount": unit})) == ["/opt/bin/python3"]


def test_the_type_of_a_partition_mounts(tmp_path: Path) -> None:
    path = disk(tmp_path, {"srv/x": ""}, kind="3B8F8425-20E0-4F3B-907F-1A25A76F98E8")
    assert found(path) == ["/srv/bin/python3"]


def test_what_nothing_mounts_is_found_all_the_same(tmp_path: Path) -> None:
    path = disk(tmp_path, {"etc/fstab": "LABEL=elsewhere /opt ext4 nofail 0 2\n"})
    assert found(path) == ["/partition-1/bin/python3"]
    assert guest(path).files.executables_holding(["no such text"]) == []


@pytest.mark.parametrize("ask", [
    lambda one: one.files.executables_named(["nothing"]), lambda one: one.files.executables_holding(["nothing at all"]),
    lambda one: one.files.matching(["nothing"]), lambda one: one.files.setuid(),
])  # fmt: skip
def test_what_is_not_found_is_not_judged_where_a_partition_cannot_be_read(tmp_path: Path, ask: object) -> None:
    path = disk(tmp_path, {"bin/sh*": "#!"})
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"LUKS\xba\xbe" + bytes(4090))
    assert guest(path).files.executables_named(["sh"]) == ["/bin/sh"]
    with pytest.raises(NotJudged, match="partition 1 holds LUKS"):
        ask(guest(path))  # type: ignore[operator]


@pytest.mark.parametrize(("files", "reason"), [
    ({"etc/fstab": "LABEL=data /var ext4 defaults 0 2\n"}, "LABEL=data is mounted on /var, and is not on this disk"),
    ({"etc/fstab": "/dev/vdb1 /var auto\n"}, "/dev/vdb1 is mounted on /var"),
    ({"etc/fstab": "overlay /etc overlay lowerdir=/etc,upperdir=/u 0 0\n"}, "an overlay is mounted on /etc"),
    ({"etc/systemd/system/opt.mount": UNIT.format(what="/dev/disk/by-label/none"),
      "etc/systemd/system/local-fs.target.wants/opt.mount": "-> ../opt.mount"}, "is mounted on /opt"),
])  # fmt: skip
def test_what_lies_on_a_mount_that_is_not_on_the_disk_is_not_judged(tmp_path: Path, files: dict[str, str],
                                                                    reason: str) -> None:
    path = disk(tmp_path, files)
    with pytest.raises(NotJudged, match=reason):
        guest(path).files.executables_named(["nothing"])
    assert found(path) == ["/partition-1/bin/python3"]


@pytest.mark.parametrize("files", [
    {"etc/fstab": "LABEL=data /var ext4 noauto 0 2\nproc /proc proc\ntmpfs /tmp tmpfs\n/dev/vdb none swap sw\n"},
    {"etc/fstab": "LABEL=gone / ext4 ro\nserver:/x /mnt nfs ro\n"},
    {"etc/systemd/system/opt.mount": UNIT.format(what="/dev/disk/by-label/none")},
], ids=str)  # fmt: skip
def test_what_no_boot_mounts_from_a_disk_hides_nothing(tmp_path: Path, files: dict[str, str]) -> None:
    assert guest(disk(tmp_path, files)).files.executables_named(["nothing"]) == []


@pytest.mark.parametrize("content", [bytes(4096), bytes(4086) + b"SWAPSPACE2"], ids=["zeros", "swap"])
def test_an_empty_partition_and_swap_hide_nothing(tmp_path: Path, content: bytes) -> None:
    path = disk(tmp_path, {})
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(content.ljust(256 << 10, b"\0"))
    assert found(path) == []


def test_a_capability_is_read_from_the_inode_and_from_its_block(tmp_path: Path) -> None:
    root = disks.fill(tmp_path / "root", {**RELEASE, "bin/a*": "", "bin/b*": "", "bin/c*": ""})
    for name in ("a", "b"):
        subprocess.run(["setcap", "cap_net_raw+ep", root / f"bin/{name}"], check=True)
    os.setxattr(root / "bin/b", "user.long", bytes(900))
    assert guest(disks.disk(tmp_path / "disk.raw", root=root)).files.setuid() == ["/bin/a", "/bin/b"]
    old = disks.disk(tmp_path / "old.raw", root=root, options=("-I", "128"))
    assert guest(old).files.setuid() == ["/bin/a", "/bin/b"]
