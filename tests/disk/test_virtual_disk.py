"""A disk is the same in each format, as its reader and QEMU see it; a hostile or unsound one is refused."""

from __future__ import annotations

import functools
import json
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lifsea_testbed.disk import vhdx
from lifsea_testbed.disk.image import contents, examine
from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.disk.virtual_disk import virtual_disk
from lifsea_testbed.errors import ImageRefused
from lifsea_testbed.guest import offline
from lifsea_testbed.qemu import emulator
from lifsea_testbed.support.programs import Ended
from tests.support import disks
from tests.support.boot_sector import boot_sector
from tests.support.disks import converted

SYSTEM: dict[str, str | bytes] = {"etc/os-release": "ID=x\n", "usr/lib/large": bytes(range(256)) * 9000}
#: The place of the footer of a dynamic VHD's first copy, of its header, and of fields in them.
TYPE, CREATOR, CURRENT, GEOMETRY, CHECKSUM = 60, 28, 48, 56, 64
DYNAMIC_HEADER, BLOCK_SIZE, ENTRIES, HEADER_CHECKSUM = 512, 32, 28, 36
MIB = 1 << 20


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a boot sector and an ext4 file system in a partition, and 12 MiB of zeros behind it."""
    place = tmp_path_factory.mktemp("raw")
    path = disks.disk(place / "disk.raw", root=disks.fill(place / "root", SYSTEM))
    with path.open("r+b") as file:
        file.write(boot_sector("up\n")[:440])
        file.truncate(path.stat().st_size + 12 * MIB)
    return path


@functools.cache
def content(raw: Path, form: DiskFormat) -> bytes:
    """The content of the disk's file in that format."""
    with tempfile.TemporaryDirectory() as place:
        return converted(raw, form, Path(place)).read_bytes()


OTHERS = [form for form in DiskFormat if form is not DiskFormat.RAW]


@pytest.mark.parametrize("form", OTHERS)
def test_the_same_disk_is_read_in_each_format(raw: Path, form: DiskFormat, tmp_path: Path) -> None:
    image = examine(converted(raw, form, tmp_path))
    assert image.format is form and image.unchanged
    with RawFile(image.path) as file:
        disk = virtual_disk(form, file)
        data = raw.read_bytes()
        assert disk.size == image.virtual_size >= len(data)
        assert disk.read_at(0, len(data)) == data and not any(disk.read_at(len(data), disk.size - len(data)))
    assert offline.read(image).os_release() == {"ID": "x"}


@pytest.mark.parametrize("form", OTHERS)
def test_an_overlay_lies_above_a_disk_of_each_format(raw: Path, form: DiskFormat, tmp_path: Path) -> None:
    changed = disks.disk(tmp_path / "changed.raw", root=disks.fill(tmp_path / "root", {"etc/os-release": "ID=new\n"}))
    with changed.open("r+b") as file:
        file.truncate(raw.stat().st_size)
    overlay = disks.overlay_with(tmp_path / "overlay.qcow2", changed, raw)
    path = tmp_path / "disk"
    path.write_bytes(content(raw, form))
    assert offline.read(examine(path), overlay).os_release() == {"ID": "new"}


@pytest.mark.parametrize(("form", "options"), [
    (DiskFormat.VHD, "force_size=on"), (DiskFormat.VHD_FIXED, "force_size=on,subformat=fixed"),
    (DiskFormat.VHDX, "block_size=1M"), (DiskFormat.VHDX, "subformat=fixed"), (DiskFormat.VHDX, "block_state_zero=off"),
    (DiskFormat.VMDK, "zeroed_grain=on"), (DiskFormat.VMDK, "compat6=on"), (DiskFormat.VMDK, "adapter_type=lsilogic"),
], ids=str)  # fmt: skip
def test_each_kind_of_a_format_is_read(raw: Path, form: DiskFormat, options: str, tmp_path: Path) -> None:
    path = converted(raw, form, tmp_path, "-o", options)
    with RawFile(path) as file:
        assert contents.function(file, "disk").format is form
        assert virtual_disk(form, file).read_at(0, raw.stat().st_size) == raw.read_bytes()


def with_checksum(data: bytearray, start: int, length: int, place: int) -> bytearray:
    """Corrects the checksum of a footer or header of a VHD."""
    data[start + place:start + place + 4] = bytes(4)
    struct.pack_into(">I", data, start + place, ~sum(data[start:start + length]) & 0xFFFF_FFFF)
    return data


def footer(**fields: object) -> Callable[[bytearray], bytearray]:
    """Changes fields of both copies of a dynamic VHD's footer, or of the one of a fixed one, with right checksums."""
    places = {"kind": (TYPE, ">I"), "creator": (CREATOR, "4s"), "size": (CURRENT, ">Q"), "geometry": (GEOMETRY, ">HBB")}

    def change(data: bytearray) -> bytearray:
        for start in (0, len(data) - 512):
            if data[start:start + 8] != b"conectix":
                continue
            for name, value in fields.items():
                at, form = places[name]
                struct.pack_into(form, data, start + at, *(value if isinstance(value, tuple) else (value,)))
            with_checksum(data, start, 512, CHECKSUM)
        return data

    return change


def header(place: int, value: int) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        struct.pack_into(">I", data, DYNAMIC_HEADER + place, value)
        return with_checksum(data, DYNAMIC_HEADER, 1024, HEADER_CHECKSUM)

    return change


def put(place: int, content: bytes) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        data[place:place + len(content)] = content
        return data

    return change


def cut(length: int) -> Callable[[bytearray], bytearray]:
    return lambda data: data[:length]


def summed(start: int, length: int, change: Callable[[bytearray], bytearray]) -> Callable[[bytearray], bytearray]:
    """Makes a change in a header or table of a VHDX, and corrects its checksum."""
    def changed(data: bytearray) -> bytearray:
        data = change(data)
        data[start + 4:start + 8] = bytes(4)
        struct.pack_into("<I", data, start + 4, vhdx._crc32c(bytes(data[start:start + length])))
        return data

    return changed


def both(*changes: Callable[[bytearray], bytearray]) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        for each in changes:
            data = each(data)
        return data

    return change


VHD, FIXED, VHDX, VMDK = DiskFormat.VHD, DiskFormat.VHD_FIXED, DiskFormat.VHDX, DiskFormat.VMDK
FIRST, SECOND, KIB64 = 64 << 10, 128 << 10, 64 << 10
REGIONS, METADATA_AT = 192 << 10, 3 * MIB
UNCLOSED = both(*(summed(start, 4096, put(start + 48, b"x" * 16)) for start in (FIRST, SECOND)))


@pytest.mark.parametrize(("form", "change", "told", "hint"), [
    (VHD, footer(kind=4), "is a differencing VHD", "merge it"),
    (VHD, footer(kind=7), "is a VHD of type 7", "merge it"),
    (VHD, put(TYPE, b"\0\0\0\4"), "the footer of a dynamic VHD is damaged", "compare digests"),
    (VHD, cut(100), "does not end with its footer", "compare digests"),
    (VHD, cut(-512), "does not end with its footer", "compare digests"),
    (VHD, cut(3 * MIB), "does not end with its footer", "compare digests"),
    (VHD, footer(creator=b"vpc ", geometry=(100, 4, 17)), "whose geometry has 3481600: QEMU cuts", "force_size_calc"),
    (VHD, footer(creator=b"win ", size=3 << 40), "a dynamic VHD of 3298534883328 bytes", "compare digests"),
    (VHD, header(BLOCK_SIZE, 3 << 20), "in blocks of 3145728", "compare digests"),
    (VHD, header(BLOCK_SIZE, 0), "in blocks of 0", "compare digests"),
    (VHD, header(ENTRIES, 1), "has 1 entries of", "compare digests"),
    (VHD, put(1536, b"\x7f\xff\xff\xff"), "blocks behind the end", "compare digests"),
    (VHD, put(DYNAMIC_HEADER, b"x"), "the header of a dynamic VHD is damaged", "compare digests"),
    (FIXED, footer(kind=3), "is a VHD of type 3 without a header", "compare digests"),
    (FIXED, footer(size=1 << 40), "a fixed VHD of 1099511627776 bytes in a file", "compare digests"),
    (FIXED, footer(size=1 << 63), "a fixed VHD of", "compare digests"),
    (FIXED, footer(size=1000), "a fixed VHD of 1000 bytes", "compare digests"),
    (FIXED, footer(size=0), "claims a disk of 0 bytes", "64 TiB"),
    (FIXED, put(-512 + CHECKSUM, b"\0"), "the footer of a fixed VHD is damaged", "compare digests"),
    (VHDX, put(FIRST + 100, b"x"), "", ""),
    (VHDX, both(put(FIRST + 100, b"x"), put(SECOND + 100, b"x")), "no header of a VHDX is sound", "compare digests"),
    (VHDX, UNCLOSED, "is a VHDX that was not closed", "qemu-img check -r all -f vhdx"),
    (VHDX, both(*(summed(start, 4096, put(start + 66, b"\2")) for start in (FIRST, SECOND))), "of version 2", "anew"),
    (VHDX, put(REGIONS + 500, b"x"), "the table of regions of a VHDX is damaged", "compare digests"),
    (VHDX, summed(REGIONS, KIB64, put(REGIONS + 8, b"\1")), "contradicts itself", "compare digests"),
    (VHDX, summed(REGIONS, KIB64, put(REGIONS + 16, b"x")), "contradicts itself", "compare digests"),
    (VHDX, summed(REGIONS, KIB64, both(put(REGIONS + 16, b"x"), put(REGIONS + 44, b"\1"))),
     "with regions that are not known", "system that made"),
    (VHDX, summed(REGIONS, KIB64, put(REGIONS + 16 + 24, b"\0\0\1\0")), "", ""),
    (VHDX, put(METADATA_AT, b"x"), "the metadata of a VHDX are damaged", "compare digests"),
    (VHDX, put(METADATA_AT + 10, b"\xff\xff"), "the metadata of a VHDX are damaged", "compare digests"),
    (VHDX, put(METADATA_AT + 10, b"\1\0"), "a VHDX lacks metadata", "compare digests"),
    (VHDX, put(METADATA_AT + 32, b"x"), "with metadata that are not known", "system that made"),
    (VHDX, put(METADATA_AT + KIB64 + 4, b"\2"), "is a differencing VHDX", "merge it"),
    (VHDX, put(METADATA_AT + KIB64, b"\1"), "in blocks of", "compare digests"),
    (VHDX, cut(4 * MIB), "blocks behind the end", "compare digests"),
    (VHDX, cut(300 << 10), "something on it refers to byte", "compare digests"),
    (VMDK, put(4, b"\4"), "a VMDK of version 4 is damaged", "compare digests"),
    (VMDK, put(73, b"\r\n"), "is damaged", "compare digests"),
    (VMDK, put(72, b"\1"), "is a VMDK that was not closed", "qemu-img convert -f vmdk"),
    (VMDK, put(77, b"\1"), "is a compressed VMDK", "qemu-img convert -f vmdk"),
    (VMDK, put(12, bytes(8)), "is a VMDK of several files", "qemu-img convert -f vmdk"),
    (VMDK, put(12, b"\xff" * 8), "a VMDK of 18446744073709551615 sectors", "compare digests"),
    (VMDK, put(20, bytes(8)), "in grains of 0", "compare digests"),
    (VMDK, put(44, b"\xff" * 4), "4294967295 a table", "compare digests"),
    (VMDK, put(36, bytes(8)), "a descriptor of 0 bytes", "compare digests"),
    (VMDK, put(512, b'parentFileNameHint="/etc/passwd"\n'), "needs another disk, its parent", "qemu-img convert"),
    (VMDK, put(512, b'createType="twoGbMaxExtentSparse"\n'), "another kind than monolithicSparse: twoGb", "convert"),
    (VMDK, put(512, b'createType="monolithicSparse"\nRW 1 SPARSE "a"\nRW 1 FLAT "/etc/passwd" 0\n\0'),
     "another kind than", "convert"),
    (VMDK, cut(MIB), "behind the end", "compare digests"),
])  # fmt: skip
def test_what_is_unsound_is_refused_and_named(
    raw: Path, form: DiskFormat, change: Callable[[bytearray], bytearray], told: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(change(bytearray(content(raw, form))))
    with RawFile(path) as file:
        if not told:
            assert contents.function(file, "disk").format is form
            return
        with pytest.raises(ImageRefused) as caught:
            contents.function(file, str(path))
    assert told in caught.value.happened and caught.value.happened.startswith(f"{path}: ")
    assert hint in caught.value.hint and "{" not in caught.value.hint and "\n" not in caught.value.one_line


@pytest.mark.parametrize("creator", [
    b"win ", b"qem2", b"d2v ", b"CTXS", b"tap\0", b"wa\0\0", b"qemu", b"vpc ", b"vbox",
])  # fmt: skip
@pytest.mark.parametrize("geometry", [(65535, 16, 255), None, (2000, 16, 63)], ids=["most", "fits", "more"])
def test_the_size_of_a_dynamic_vhd_is_that_which_a_guest_sees(
    raw: Path, tmp_path: Path, creator: bytes, geometry: tuple[int, int, int] | None
) -> None:
    """A geometry with more than the table has is refused by both; vbox is as the table says since version 10."""
    if creator == b"vbox" and not emulator.find().version.startswith("1"):
        pytest.skip("this QEMU goes by the geometry")
    path, data = tmp_path / "disk.vhd", bytearray(content(raw, VHD))
    geometry = geometry or struct.unpack_from(">HBB", data, GEOMETRY)
    size = struct.unpack_from(">Q", data, CURRENT)[0] - 512
    path.write_bytes(footer(creator=creator, geometry=geometry, size=size)(data))
    shown = subprocess.run(["qemu-img", "info", "-f", "vpc", "--output=json", path], capture_output=True, check=False)
    with RawFile(path) as file:
        if shown.returncode:
            with pytest.raises(ImageRefused):
                contents.function(file, "disk")
        else:
            assert contents.function(file, "disk").virtual_size == json.loads(shown.stdout)["virtual-size"]


def test_the_hint_for_a_vhd_that_qemu_cuts_short_makes_the_whole_disk(raw: Path, tmp_path: Path) -> None:
    path, size = tmp_path / "disk.vhd", raw.stat().st_size
    path.write_bytes(footer(creator=b"vpc ", geometry=(100, 4, 17), size=size)(bytearray(content(raw, VHD))))
    with pytest.raises(ImageRefused, match="QEMU cuts the rest off") as caught:
        examine(path)
    disks.run("sh", "-ec", caught.value.hint.partition(": ")[2])
    with RawFile(path.with_suffix(".qcow2")) as file:
        assert virtual_disk(DiskFormat.QCOW2, file).read_at(0, size) == raw.read_bytes()


def test_a_vhd_that_this_qemu_reads_otherwise_is_refused(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As QEMU 9 does one of VirtualBox's, whose geometry is smaller than the disk."""
    monkeypatch.setattr("lifsea_testbed.disk.image.run_tool", lambda *arguments, **options: Ended(
        args=[], returncode=0, stdout='{"virtual-size": 3481600}', stderr=""))  # fmt: skip
    path = converted(raw, VHD, tmp_path)
    with pytest.raises(ImageRefused, match="of which this QEMU reads 3481600") as caught:
        examine(path)
    assert f"force_size_calc=current_size,file.filename={path} " in caught.value.hint


@pytest.mark.parametrize("form", OTHERS)
def test_a_disk_of_zeros_is_refused_in_each_format(form: DiskFormat, tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.raw"
    zeros.write_bytes(bytes(4 * MIB))
    with pytest.raises(ImageRefused, match="the disk in it is empty"):
        examine(converted(zeros, form, tmp_path))


@pytest.mark.parametrize("form", OTHERS)
def test_a_disk_in_a_disk_is_refused(raw: Path, form: DiskFormat, tmp_path: Path) -> None:
    """As `qemu-img convert -f raw` makes it of an image that is not raw."""
    inner = converted(raw, form, tmp_path).rename(tmp_path / "inner")
    with inner.open("r+b") as file:
        file.truncate(-(-inner.stat().st_size // MIB) * MIB if form is not FIXED else inner.stat().st_size)
    with pytest.raises(ImageRefused, match=f"the disk in it is itself a file of the format {form}"):
        examine(converted(inner, DiskFormat.QCOW2, tmp_path))
