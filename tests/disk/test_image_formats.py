"""Files that are no disk image of a supported format are named, with the commands that make one of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lifsea_testbed.disk.image import examine
from lifsea_testbed.disk.image_formats import HEAD, TAIL, DiskFormat, FileFormat, identify
from lifsea_testbed.disk.qcow2_header import parse_qcow2_header, unknown_features
from lifsea_testbed.errors import ImageRefused
from tests.support.boot_sector import boot_sector, raw_image

_DISK = boot_sector("up\n").ljust(1 << 20, b"\0")


def refused(path: Path) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        examine(path)
    assert "\n" not in caught.value.one_line
    return caught.value


def commands(hint: str, place: Path) -> None:
    """Runs the command that a hint ends with, as a user would."""
    subprocess.run(["sh", "-ec", hint.partition(": ")[2]], cwd=place, check=True, capture_output=True)


def by_tool(*command: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        if not shutil.which(command[0]):
            pytest.skip(f"{command[0]} is not installed")
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    return compress


@pytest.mark.parametrize(("suffix", "compress", "name", "tool"), [
    (".gz", gzip.compress, "a gzip file", "gunzip -k"),
    (".xz", lzma.compress, "an xz file", "unxz -k"),
    (".lzma", lambda data: lzma.compress(data, lzma.FORMAT_ALONE), "an LZMA file", "unlzma -k"),
    (".bz2", bz2.compress, "a bzip2 file", "bunzip2 -k"),
    (".zst", by_tool("zstd", "-c"), "a zstd file", "unzstd -k"),
    (".lz4", by_tool("lz4", "-c"), "an LZ4 file", "unlz4"),
])  # fmt: skip
def test_a_compressed_image_is_decompressed_by_its_hint_and_never_converted(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], name: str, tool: str
) -> None:
    """`qemu-img convert` would make a qcow2 image of the compressed bytes."""
    installed = shutil.which(tool.split()[0])
    for file, command in ((f"disk{suffix}", tool), ("another.name", tool.replace("-k", "-c"))):
        (tmp_path / file).write_bytes(compress(_DISK))
        error = refused(tmp_path / file)
        assert f"is {name}, not a disk image" in error.happened
        assert error.hint.startswith(f"decompress it: {command} /") and "qemu-img" not in error.hint
        if installed:
            commands(error.hint, tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir() if path.read_bytes() == _DISK)
    assert made == ["another.name.raw", "disk"] or not installed


@pytest.mark.parametrize(("driver", "options", "name"), [
    ("vmdk", "subformat=streamOptimized", "a compressed VMDK (streamOptimized)"),
    ("vmdk", "subformat=monolithicFlat", "the descriptor of a VMDK disk"),
    ("vdi", "", "a VDI disk"), ("qed", "", "a QED disk"),
    ("parallels", "", "a Parallels disk"), ("qcow", "", "a QCOW disk of version 1"),
])  # fmt: skip
def test_a_disk_of_another_hypervisor_is_converted_by_its_hint(
    tmp_path: Path, driver: str, options: str, name: str
) -> None:
    raw_image(tmp_path / "disk.raw")
    convert = ["qemu-img", "convert", "-f", "raw", "-O", driver, *(["-o", options] if options else [])]
    subprocess.run([*convert, "disk.raw", "disk.img"], cwd=tmp_path, check=True)
    error = refused(tmp_path / "disk.img")
    assert f"is {name}" in error.happened
    commands(error.hint, tmp_path)
    assert examine(tmp_path / "disk.qcow2").virtual_size >= 1 << 20


@pytest.mark.parametrize("name", ["with:colon.vdi", "-x.vdi", "two words.vdi", "json:{}.vdi"])
def test_a_hint_is_right_for_a_name_that_looks_like_something_else(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw_image(tmp_path / "disk.raw")
    subprocess.run(["qemu-img", "convert", "-O", "vdi", "disk.raw", str(tmp_path / name)], check=True)
    commands(refused(Path(name)).hint, tmp_path)
    assert len(list(tmp_path.glob("*.qcow2"))) == 1


def archive(*members: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member in members:
            tar.addfile(tarfile.TarInfo(member))
    return file.getvalue()


def at(*parts: tuple[int, bytes], size: int = 1 << 20) -> bytes:
    data = bytearray(size)
    for offset, content in parts:
        data[offset:offset + len(content)] = content
    return bytes(data)


def iso(*, blocks: int) -> bytes:
    return at((32768, b"\x01CD001\x01"), (32768 + 80, struct.pack("<I", blocks)))


def efi(*sections: bytes) -> bytes:
    return at((0, b"MZ"), (60, struct.pack("<I", 128)), (128, b"PE\0\0"), (392, b"".join(sections)))


@pytest.mark.parametrize(("data", "name", "advice"), [
    (at((0, b"\x3a\xff\x26\xed")), "an Android sparse image", "simg2img"),
    (at(((1 << 20) - 512, b"koly")), "a macOS disk image (DMG)", "qemu-img convert -f dmg"),
    (iso(blocks=512), "an ISO 9660 image", "-cdrom "),
    (boot_sector("")[:512] + iso(blocks=300)[512:], "an ISO 9660 image", "installed system"),
    (archive("blobs/", "oci-layout"), "a container image", "podman load -i "),
    (archive("./manifest.json"), "a container image", "bootc"),
    (archive("a.ovf", "a.vmdk"), "a virtual appliance (OVA)", "tar -xf"),
    (archive("etc/passwd"), "a tar archive", "tar -xf"),
    (at((1080, b"\x53\xef")), "an ext2, ext3 or ext4 file system without a partition table", "whole disk"),
    (at((0, b"XFSB")), "an XFS file system", "whole disk"),
    (at((65600, b"_BHRfS_M")), "a btrfs file system", "whole disk"),
    (at((0, b"hsqs")), "a squashfs file system", "whole disk"),
    (at((1024, b"\xe2\xe1\xf5\xe0")), "an EROFS file system", "whole disk"),
    (at((512, b"LABELONE")), "an LVM physical volume", "whole disk"),
    (at((0, b"LUKS\xba\xbe")), "a LUKS volume", "passphrase"),
    (at((0, b"\x7fELF")), "an ELF program", "whole disk"),
    (efi(b".text\0\0\0"), "an EFI program", "whole disk"),
    (efi(b".osrel\0\0", b".linux\0\0"), "a unified kernel image", "made from it"),
    (at((510, b"\x55\xaa"), (514, b"HdrS")), "a Linux kernel", "made from it"),
    (b"<!DOCTYPE html><title>404</title>", "an HTML page", "download it again"),
    (b"PK\x03\x04", "a zip archive", "unzip"),
    (bytes(4096), "empty", "make it again"),
])  # fmt: skip
def test_what_is_no_disk_is_named(tmp_path: Path, data: bytes, name: str, advice: str) -> None:
    (tmp_path / "disk").write_bytes(data)
    error = refused(tmp_path / "disk")
    assert f": is {name}" in error.happened and advice in error.hint


def test_a_directory_with_a_container_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    error = refused(tmp_path)
    assert error.happened == f"{tmp_path}: is a container image (an OCI image layout)"
    assert f"podman pull oci:{tmp_path}; " in error.hint and "bootc install to-disk" in error.hint


@pytest.mark.parametrize("data", [
    _DISK,
    at((510, b"\x55\xaa"), (1080, b"\x53\xef")),
    at((0, b"QFI\xfb\0\0\0\x03"), ((1 << 20) - 512, b"conectix")),
    boot_sector("")[:512] + iso(blocks=100)[512:],
    b"",
    b"MZ",
    at((0, b"MZ"), (60, struct.pack("<I", 1 << 31))),
], ids=["disk", "boots-from-a-file-system", "qcow2", "left-over-iso", "nothing", "short", "nowhere"])  # fmt: skip
def test_what_may_be_a_disk_is_none_of_them(data: bytes) -> None:
    assert isinstance(identify(data[:HEAD], data[-512:], len(data)), DiskFormat)


#: What a parser looks for, and where: a random input alone would be turned away at the first byte.
_MARKS = [(0, b"MZ"), (510, b"\x55\xaa"), (257, b"ustar"), (769, b"ustar"), (32768, b"\x01CD001"), (514, b"HdrS"),
          (0, b"QFI\xfb\0\0\0\x03"), (100, b"\0\0\0\x68"), (104, b"\x68\x03\xf8\x57"), (64, b"PE\0\0")]  # fmt: skip


@settings(max_examples=2000, deadline=None)
@given(some.binary(max_size=1200), some.lists(some.sampled_from(_MARKS), unique=True), some.booleans(),
       some.integers(min_value=0, max_value=1 << 63))  # fmt: skip
def test_no_bytes_break_what_tells_formats_apart(
    noise: bytes, marks: list[tuple[int, bytes]], long: bool, size: int
) -> None:
    head = bytearray(noise + bytes(36000 if long else 0))
    for place, mark in marks:
        head[place:place + len(mark)] = mark if place < len(head) else b""
    found = identify(bytes(head), bytes(head[-TAIL:]), size)
    assert not isinstance(found, FileFormat) or "\n" not in found.hint(Path("x"))
    try:
        parse_qcow2_header(bytes(head))
    except ValueError:
        return
    assert len(unknown_features(bytes(head))) <= 64
