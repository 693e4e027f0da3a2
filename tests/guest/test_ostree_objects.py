"""A deployment on a disk is compared with its commit by the test bed itself; ostree, which made both, is not asked."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lifsea_testbed.disk import image
from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.guest import disk_questions, offline, ostree_objects
from tests.support import disks

ENTRY = "title x\nversion 1\nlinux /vmlinuz\noptions root=/dev/vda2 ro ostree=/ostree/boot.1/os/b00/0\n"
FILES: dict[str, str | bytes] = {
    "usr/lib/os-release": "ID=x\n", "usr/bin/sh": "-> dash", "usr/bin/dash*": "#! shell", "usr/bin/su!": "x",
    "usr/share/large": random.Random(1).randbytes(300_000), "usr/share/empty": "", "usr/share/a b/ü": "text",
    **{f"usr/share/many/{number:04}": str(number) for number in range(700)},
}  # fmt: skip
needs_ostree = pytest.mark.skipif(shutil.which("ostree") is None, reason="the host has no ostree")


def ostree(repository: Path, *words: str | Path) -> str:
    return disks.run("ostree", f"--repo={repository}", *words).strip()


def deployed(place: Path, change: Callable[[Path, Path], object] = lambda deployment, repository: None) -> list[str]:
    """What differs in a deployment, made by ostree and changed then."""
    tree, root, boot = disks.fill(place / "tree", FILES), place / "root", place / "boot"
    with (tree / "usr/share/holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(500_000)
        file.write(b"x")
    if os.geteuid() == 0:
        os.chown(tree / "usr/bin/dash", 70_000, 8)
        os.setxattr(tree / "usr/bin/dash", "user.long", b"v" * 300)
        os.setxattr(tree / "usr/bin/dash", "user.b", b"")
    repository = root / "ostree/repo"
    repository.mkdir(parents=True)
    ostree(repository, "init", "--mode=bare")
    commit = ostree(repository, "commit", "--branch=os", f"--tree=dir={tree}", "--subject=a subject")
    deployment = root / f"ostree/deploy/os/deploy/{commit}.0"
    deployment.parent.mkdir(parents=True)
    ostree(repository, "checkout", "--require-hardlinks", commit, deployment)
    disks.fill(root, {"ostree/boot.1/os/b00/0": f"-> ../../../deploy/os/deploy/{commit}.0"})
    disks.fill(boot, {"loader/entries/a.conf": ENTRY})
    (deployment / "sysroot").mkdir()
    change(deployment, repository)
    path = disks.disk(place / "disk.raw", root=root, boot=boot)
    return offline.read(image.examine(path)).ask(disk_questions.changed_files)


def rewrite(path: Path, content: bytes) -> None:
    """Another file of the same mode and owner in its place, which shares nothing with the object."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    path.unlink()
    other.write_bytes(content)
    other.rename(path)


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


@needs_ostree
def test_a_deployment_is_its_commit(tmp_path: Path) -> None:
    assert deployed(tmp_path) == []


@needs_ostree
@pytest.mark.parametrize(("change", "found"), [
    (lambda usr, objects: rewrite(usr / "bin/su", b"y"), ["M /usr/bin/su"]),
    (lambda usr, objects: (usr / "bin/dash").write_bytes(b"#! SHELL"), ["M /usr/bin/dash"]),
    (lambda usr, objects: (usr / "bin/su").chmod(0o755), ["M /usr/bin/su"]),
    (lambda usr, objects: (usr / "share/new").write_text(""), ["A /usr/share/new"]),
    (lambda usr, objects: (usr / "share/new/deep").mkdir(parents=True), ["A /usr/share/new"]),
    (lambda usr, objects: (usr / "share/empty").unlink(), ["D /usr/share/empty"]),
    (lambda usr, objects: shutil.rmtree(usr / "share/many"), ["D /usr/share/many"]),
    (lambda usr, objects: relink(usr / "bin/sh", "/bin/bash"), ["M /usr/bin/sh"]),
    (lambda usr, objects: (usr / "share/empty").replace(usr / "bin/su"), ["D /usr/share/empty", "M /usr/bin/su"]),
])  # fmt: skip
def test_each_change_is_found(tmp_path: Path, change: Callable[[Path, Path], object], found: list[str]) -> None:
    assert deployed(tmp_path, lambda deployment, objects: change(deployment / "usr", objects)) == found


@needs_ostree
@pytest.mark.skipif(os.geteuid() != 0, reason="owners and attributes are root's to change")
@pytest.mark.parametrize("change", [
    lambda path: os.chown(path, 1, 8), lambda path: os.setxattr(path, "user.b", b"c"),
    lambda path: os.removexattr(path, "user.long"), lambda path: os.setxattr(path, "user.new", b""),
])  # fmt: skip
def test_owner_and_attributes_are_of_the_commit(tmp_path: Path, change: Callable[[Path], object]) -> None:
    assert deployed(tmp_path, lambda deployment, _: change(deployment / "usr/bin/dash")) == ["M /usr/bin/dash"]


@needs_ostree
@pytest.mark.parametrize("kind", ["commit", "dirtree"])
def test_an_object_that_is_another_one_is_damage(tmp_path: Path, kind: str) -> None:
    def change(deployment: Path, repository: Path) -> None:
        for path in repository.glob(f"objects/*/*.{kind}"):
            path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(DiskDamaged, match=f"the {kind} [0-9a-f]{{64}} in the ostree repository is another one"):
        deployed(tmp_path, change)


@needs_ostree
def test_a_missing_object_is_damage(tmp_path: Path) -> None:
    def change(deployment: Path, repository: Path) -> None:
        for path in repository.glob("objects/*/*.dirtree"):
            path.unlink()

    with pytest.raises(DiskDamaged, match="the ostree repository has no dirtree"):
        deployed(tmp_path, change)


def test_a_system_that_is_no_deployment_is_not_judged(tmp_path: Path) -> None:
    path = disks.disk(tmp_path / "disk.raw", root=disks.fill(tmp_path / "root", {"etc/os-release": "ID=x\n"}))
    with pytest.raises(NotJudged, match="no deployment of ostree"):
        offline.read(image.examine(path)).ask(disk_questions.changed_files)


def test_no_bytes_make_a_listing_crash() -> None:
    chance = random.Random(7)
    for _ in range(20_000):
        raw = bytes(chance.choice((0, 1, 32, 33, 65, chance.randrange(256))) for _ in range(chance.randrange(120)))
        try:
            found = ostree_objects.listing(raw)
        except DiskDamaged:
            continue
        assert all("/" not in name and name not in (".", "..") for name in (*found.files, *found.directories))


def test_a_short_commit_is_damage() -> None:
    with pytest.raises(DiskDamaged, match="cut short"):
        ostree_objects.commit_root(b"x" * 40)
