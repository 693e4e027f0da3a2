"""The bill of materials of an image is valid, the same every time, and has what the disk of the image holds."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from images import bootloader, cli, contents, disk, fetched, sbom
from images.bootloader import BootLoader, Platform
from images.errors import BuildError
from images.fetched import Fetched
from images.store import Store
from lifsea_testbed.disk.image import examine
from lifsea_testbed.disk.layers import opened
from lifsea_testbed.disk.os_root import os_root
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.guest import packages
from tests.support import disks, real

_STATUS = """\
Package: bash
Status: install ok installed
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Source: bash (5.2-1)
Version: 5.2-1+b2
Description: shell
 Package: not-a-field

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 1:2026a
"""
_KUBELET = b"\x7fELF" + bytes(60) + b"\xff Go buildinf:\x08\x02" + bytes(16)


def go_elf(version: str, information: str) -> bytes:
    """An ELF file with what Go writes; the mark is there before as a constant, as in a program that reads it."""
    strings = b"".join(_length(len(text)) + text for text in (version.encode(), bytes(16) + information.encode() +
                                                              bytes(16)))  # fmt: skip
    return b"\x7fELF\xff Go buildinf:".ljust(64, b"\0") + b"\xff Go buildinf:\x08\x02" + bytes(16) + strings


def _length(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + _length(number >> 7)


def archive(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small image with a program of each kind."""
    kubelet = go_elf("go1.24.4", "path\tk8s.io/kubernetes/cmd/kubelet\nmod\tk8s.io/kubernetes\tv1.20.2\th1:x\n"
                                 "dep\tgolang.org/x/sys\tv0.30.0\th1:y\n") + b"..v1.20.2.."  # fmt: skip
    busybox = b"\x7fELF BusyBox v1.37.0 (Debian 1:1.37.0-6)\n"
    root = disks.fill(tmp_path / "root", {
        "usr/lib/os-release": "ID=reference\nVERSION_ID=3.3.0\n", "etc/debian_version": "13.1\n",
        "usr/share/package-db/status": _STATUS, "usr/bin/kubelet*": kubelet, "usr/bin/script*": "#!/bin/sh\n",
        "usr/lib/modules/6.1/vmlinuz": "6.1.19-1 (root@reference) #1",
        "usr/share/lifsea/var.tar": archive(("lib/containerd/snapshots/2/fs/bin/busybox", busybox)),
    })  # fmt: skip
    return disks.qcow2(disks.disk(tmp_path / "disk.raw", root=root))


def made(path: Path, name: str) -> dict[str, Any]:
    package: dict[str, Any]
    (package,) = [each for each in json.loads(path.read_text())["packages"] if each["name"] == name]
    return package


def no_origin(artefact: str, file: str, content: bytes) -> list[Fetched]:
    return []


def test_what_an_image_holds_is_in_its_bill(image: Path, tmp_path: Path) -> None:
    bill = tmp_path / "out.spdx.json"
    sbom.write(bill, "reference", image, contents.read(image, no_origin))
    document = parse_file(str(bill))
    assert validate_full_spdx_document(document) == []
    found = {package.name: package.version for package in document.packages}
    assert found == {"reference": "3.3.0", "bash": "5.2-1+b2", "tzdata": "1:2026a", "linux": "6.1.19-1", "kubelet":
                     "1.20.2", "busybox": "1:1.37.0-6", "k8s.io/kubernetes/cmd/kubelet": None, "k8s.io/kubernetes":
                     "v1.20.2", "golang.org/x/sys": "v0.30.0"}  # fmt: skip
    (described,) = [each for each in document.relationships if each.relationship_type.name == "DESCRIBES"]
    assert described.related_spdx_element_id == document.packages[0].spdx_id
    bash, kernel = made(bill, "bash"), made(bill, "linux")
    assert bash["externalRefs"] == [
        {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
         "referenceLocator": "pkg:deb/debian/bash@5.2-1%2Bb2?arch=amd64&distro=debian-13"}]  # fmt: skip
    assert bash["sourceInfo"] == "built from bash 5.2-1" and bash["supplier"] == "Organization: Matthias Klose " \
        "(doko@debian.org)"  # fmt: skip
    assert kernel["licenseDeclared"] == "GPL-2.0-only WITH Linux-syscall-note" and len(kernel["checksums"]) == 1


def test_a_bill_is_the_same_for_the_same_image(image: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        sbom.write(tmp_path / name, "reference", image, contents.read(image, no_origin))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert b"2026-01-01T00:00:00Z" in (tmp_path / "one").read_bytes()


def test_an_image_without_a_database_has_no_bill(tmp_path: Path) -> None:
    root = disks.fill(tmp_path / "root", {"etc/os-release": "ID=x\n"})
    with pytest.raises(BuildError, match="no /usr/share/package-db/status"):
        contents.read(disks.disk(tmp_path / "disk.raw", root=root), no_origin)


def test_versions_of_what_an_artefact_is_made_of_are_written_beside_it(tmp_path: Path) -> None:
    """And are found by the content of the program that was made, also on a disk, where GRUB's first sector differs."""
    store, source = Store(tmp_path / "store"), tmp_path / "kubernetes.dsc"
    source.write_text("Version: 1.20.5+really1.20.2-1\n")

    def make(into: Path) -> None:
        fetched.note("kubernetes", "1.20.5+really1.20.2-1", "source", source)
        (into / "kubelet").write_bytes(b"a" * 512 + b"program")

    artefact = store.artefact("kubelet", ["recipe"], make)
    fetched.note("later", "1", "amd64", source)
    assert sorted(path.name for path in artefact.iterdir()) == ["kubelet"]
    (package,) = store.packages_of("kubelet", "kubelet", b"b" * 512 + b"program and more")
    assert (package.name, package.version, package.architecture) == ("kubernetes", "1.20.5+really1.20.2-1", "source")
    assert len(package.sha256) == 64 and store.packages_of("kubelet", "kubelet", b"another") == []
    for number in range(3):
        store.artefact("kubelet", [str(number)], make)
    assert len(list((tmp_path / "store").glob("*.packages"))) == 3


def test_what_a_program_is_made_of_is_in_the_bill(image: Path, tmp_path: Path) -> None:
    package = Fetched(name="kubernetes", version="1.20.5+really1.20.2-1", architecture="source", sha256="0" * 64)
    held = contents.read(image, lambda artefact, file, content: [package] if artefact == "kubelet" else [])
    sbom.write(bill := tmp_path / "bill", "reference", image, held)
    assert made(bill, "kubernetes")["externalRefs"][0]["referenceLocator"] == \
        "pkg:deb/debian/kubernetes@1.20.5%2Breally1.20.2-1?arch=source"  # fmt: skip
    related = json.loads(bill.read_text())["relationships"]
    assert [row["spdxElementId"] for row in related if row["relationshipType"] == "GENERATED_FROM"] == \
        [made(bill, "kubelet")["SPDXID"]]  # fmt: skip


def test_a_program_that_does_not_tell_its_version_has_that_of_its_package(tmp_path: Path) -> None:
    root = disks.fill(tmp_path / "root", {"usr/lib/os-release": "ID=x\n", "var/lib/dpkg/status": _STATUS,
                                          "usr/lib/ostree/ostree-prepare-root*": "\x7fELF"})  # fmt: skip
    package = Fetched(name="ostree", version="2022.7-2", architecture="source", sha256="0" * 64)
    held = contents.read(disks.disk(tmp_path / "disk.raw", root=root), lambda artefact, file, content: [package])
    assert [(each.name, each.version) for each in held.programs] == [("ostree-prepare-root", "2022.7-2")]


def test_what_boots_by_uefi_is_in_the_bill_from_the_esp(tmp_path: Path) -> None:
    names = [str(bootloader.ESP_LOADER), str(bootloader.ESP_GRUB)]
    loader = BootLoader(platform=Platform.UEFI, directory=disks.fill(tmp_path / "loader", dict.fromkeys(names, "MZ")))
    root = disks.fill(tmp_path / "root", {"usr/lib/os-release": "ID=x\n", "var/lib/dpkg/status": _STATUS})
    disk.make(tmp_path / "image.qcow2", boot=disks.fill(tmp_path / "boot", {"grub2/grub.cfg": ""}), root=root,
              root_size=8, loader=loader)  # fmt: skip
    shim = Fetched(name="shim-signed", version="1-1", architecture="amd64", sha256="0" * 64)
    made_of = {("esp", "EFI/BOOT/BOOTX64.EFI", b"MZ"): [shim]}
    held = contents.read(tmp_path / "image.qcow2", lambda *program: made_of.get(program, []))
    assert [(each.name, each.path, each.version) for each in held.programs] == [
        ("shim", "EFI/BOOT/BOOTX64.EFI", "1-1"), ("grub", "EFI/BOOT/grubx64.efi", "")]


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n\xff Go buildinf:", _KUBELET[:78] + b"\0" * 20])
def test_what_is_no_go_program_is_none(content: bytes) -> None:
    assert contents.go_program("/usr/bin/x", content) is None


@pytest.mark.nightly
def test_the_bill_of_the_reference_image_is_what_its_disk_holds(tmp_path: Path) -> None:
    """By other parsers: dpkg's database as a claim reads it, Go programs by Go's own tool."""
    image = real.built("reference")
    bill = parse_file(str(image.with_suffix("").with_suffix(".spdx.json")))
    with RawFile(image) as file:
        tree = os_root(opened(examine(image).format, [file])).tree
        installed = packages.parse_dpkg_status((tree.read("/usr/share/package-db/status") or b"").decode())
        for number, (_, place) in enumerate(tree.walk({PurePosixPath("/sysroot")})):
            if place.is_regular and place.inode.mode & 0o111:
                (tmp_path / str(number)).write_bytes(place.read())
                (tmp_path / str(number)).chmod(0o755)
    assert {(each.name, each.version) for each in bill.packages if "-deb-" in each.spdx_id} == {
        (each.name, each.version) for each in installed}  # fmt: skip
    told = subprocess.run(["go", "version", "-m", tmp_path], capture_output=True, text=True, check=True).stdout
    go = [line.split("\t")[2] for line in told.splitlines() if line.startswith("\tpath\t")]
    assert sorted(go) == sorted(each.name for each in bill.packages if "SPDXRef-go-" in each.spdx_id) != []


def test_the_command_writes_a_bill_beside_the_image(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "made").mkdir()
    image.rename(tmp_path / "made/image.qcow2")
    monkeypatch.setitem(cli._RECIPES, "reference", lambda store, suite: tmp_path / "made")
    assert cli.main(["build", "reference", "-o", str(tmp_path / "out/reference.qcow2")]) == 0
    assert made(tmp_path / "out/reference.spdx.json", "reference")["packageFileName"] == "reference.qcow2"
