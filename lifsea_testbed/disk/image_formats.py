"""What a file is, told by its first and last bytes: a disk of a supported format, or what to do with anything else."""

from __future__ import annotations

import enum
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.disk.qcow2_header import MAGIC

#: The bytes at the start and at the end of a file that tell what it is: btrfs has its name at 65,600.
HEAD, TAIL = 128 << 10, 512
VHD_MAGIC, VHDX_MAGIC, VMDK_MAGIC = b"conectix", b"vhdxfile", b"KDMV"
_QCOW1 = MAGIC + b"\0\0\0\x01"
_ISO_DESCRIPTOR, _ISO_BLOCK = 32768, 2048
_TAR_BLOCK, _MOST_MEMBERS = 512, 64


class DiskFormat(enum.StrEnum):
    """The supported disk formats; QEMU always gets the format, it never probes for it."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VHD = "vhd"
    VHD_FIXED = "vhd-fixed"
    VHDX = "vhdx"
    VMDK = "vmdk"

    def driver(self, size: int) -> dict[str, str | int]:
        """Returns the options of QEMU's block driver that reads a disk of `size` bytes in such a file.

        A fixed VHD is read as the raw disk that it begins with: QEMU's own driver goes by a geometry that programs
        round down (block/vpc.c).
        """
        if self is DiskFormat.VHD_FIXED:
            return {"driver": "raw", "size": size}
        return {"driver": "vpc" if self is DiskFormat.VHD else str(self)}


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """A format that is refused: its name with an article, and the advice, a template of `with_commands`.

    `{keep}` in the advice stands for the arguments with which a tool decompresses files with that suffix.
    """

    name: str
    advice: str
    suffix: str = ""

    def hint(self, path: Path) -> str:
        """Returns the advice with the commands for the file at that path, which work as they stand in its directory."""
        return with_commands(self.advice, path, suffix=self.suffix)


def with_commands(advice: str, path: Path, *, suffix: str = "") -> str:
    """Returns an advice with the names for the file at that path: `{file}`, `{out}`, what is made of it, `{qcow2}`."""
    known = suffix and path.suffix == suffix
    out = path.with_suffix("") if known else path.with_name(f"{path.name}.raw")
    advice = advice.replace("{keep}", "-k {file}" if known else "-c {file} > {out}")
    qcow2 = _argument(path.with_name(f"{path.stem}.qcow2"))
    return advice.format(file=_argument(path), out=_argument(out), qcow2=qcow2)


def _compressed(name: str, tool: str, suffix: str) -> FileFormat:
    return FileFormat(name=name, advice=f"decompress it: {tool} {{keep}}", suffix=suffix)


def _disk(name: str, driver: str) -> FileFormat:
    return FileFormat(name=name, advice=f"convert it: qemu-img convert -f {driver} -O qcow2 {{file}} {{qcow2}}")


def _no_disk(name: str, advice: str = "give --image the image of a whole disk") -> FileFormat:
    return FileFormat(name=name, advice=advice)


def _file_system(name: str) -> FileFormat:
    return _no_disk(f"{name} file system without a partition table",
                    "give --image the image of a whole disk, with a partition table and a boot loader")  # fmt: skip


_WHOLE_DISK = "not a disk that boots: give --image the disk that is made from it"
#: Without a name of the output, lz4(1) writes to a standard output that is no terminal.
_LZ4 = FileFormat(name="an LZ4 file", advice="decompress it: unlz4 {file} {out}", suffix=".lz4")
#: Magic numbers, with their place where it is not the start. Sources: the tools' descriptions of their formats; QEMU's
#: block/*.c and docs/interop; the frame formats of zstd and LZ4; libsparse/sparse_format.h of Android.
_COMPRESSED = (
    (b"\x1f\x8b", _compressed("a gzip file", "gunzip", ".gz")),
    (b"\xfd7zXZ\0", _compressed("an xz file", "unxz", ".xz")),
    (b"\x28\xb5\x2f\xfd", _compressed("a zstd file", "unzstd", ".zst")),
    *((bytes([byte]) + b"\x2a\x4d\x18", _compressed("a zstd or LZ4 file", "unzstd", ".zst"))
      for byte in range(0x50, 0x60)),
    (b"BZh", _compressed("a bzip2 file", "bunzip2", ".bz2")),
    (b"\x04\x22\x4d\x18", _LZ4),
    (b"\x02\x21\x4c\x18", _LZ4),
    (b"LZIP", _compressed("an lzip file", "lzip -d", ".lz")),
    (b"\x5d\0\0\x80\0" + b"\xff" * 8, _compressed("an LZMA file", "unlzma", ".lzma")),
    (b"PK\x03\x04", FileFormat(name="a zip archive", advice="unpack it: unzip {file}")),
    (b"7z\xbc\xaf\x27\x1c", FileFormat(name="a 7z archive", advice="unpack it: 7z x {file}")),
)  # fmt: skip
_DISKS = (
    (0, b"COWD", _disk("a VMDK disk of an ESX server", "vmdk")),
    (0, b"# Disk DescriptorFile", _disk("the descriptor of a VMDK disk", "vmdk")),
    (64, b"\x7f\x10\xda\xbe", _disk("a VDI disk", "vdi")),
    (0, b"QED\0", _disk("a QED disk", "qed")),
    (0, _QCOW1, _disk("a QCOW disk of version 1", "qcow")),
    (0, b"WithoutFreeSpace", _disk("a Parallels disk", "parallels")),
    (0, b"WithouFreSpacExt", _disk("a Parallels disk", "parallels")),
    (0, b"Bochs Virtual HD Image", _disk("a Bochs disk", "bochs")),
    (0, b"\x3a\xff\x26\xed", FileFormat(name="an Android sparse image", advice="convert it: simg2img {file} {out}")),
)
_OTHERS = (
    (0, b"LUKS\xba\xbe", _no_disk("a LUKS volume without a partition table",
                                  "give --image the image of a whole disk that boots without a passphrase")),
    (0, b"\x7fELF", _no_disk("an ELF program")),
    (0, b"!<arch>\n", _no_disk("a Debian package or another ar archive")),
    (0, b"\xed\xab\xee\xdb", _no_disk("an RPM package")),
    (0, b"070701", _no_disk("a cpio archive, as an initramfs is", _WHOLE_DISK)),
    (0, b"version https://git-lfs", _no_disk("a pointer of Git LFS", "fetch the file itself: git lfs pull")),
    (0, b"<!DOCTYPE", _no_disk("an HTML page, as a failed download leaves", "download it again")),
    (0, b"<!doctype", _no_disk("an HTML page, as a failed download leaves", "download it again")),
    (0, b"<html", _no_disk("an HTML page, as a failed download leaves", "download it again")),
)  # fmt: skip
_FILE_SYSTEMS = (
    (0, b"XFSB", _file_system("an XFS")), (0, b"hsqs", _file_system("a squashfs")),
    (1024, b"\xe2\xe1\xf5\xe0", _file_system("an EROFS")), (1080, b"\x53\xef", _file_system("an ext2, ext3 or ext4")),
    (65600, b"_BHRfS_M", _file_system("a btrfs")),
    (512, b"LABELONE", _no_disk("an LVM physical volume without a partition table")),
)  # fmt: skip
_UNIFIED_KERNEL, _EFI_PROGRAM = _no_disk("a unified kernel image", _WHOLE_DISK), _no_disk("an EFI program")
_KERNEL = _no_disk("a Linux kernel", _WHOLE_DISK)
_ISO = _no_disk("an ISO 9660 image, a CD", "give --image the disk of an installed system; to install one from it: "
                "qemu-img create -f qcow2 {qcow2} 20G && qemu-system-x86_64 -accel kvm -accel tcg -m 4096 "
                "-drive file={qcow2},if=virtio -cdrom {file}")  # fmt: skip
#: Source: bootc's manual, docs/src/bootc-install.md, "Using `bootc install to-disk --via-loopback`".
_BOOTC = "truncate -s 20G disk.raw; podman run --rm --privileged --pid=host --security-opt label=type:unconfined_t " \
         "-v /dev:/dev -v /var/lib/containers:/var/lib/containers -v .:/output IMAGE bootc install to-disk " \
         "--generic-image --via-loopback /output/disk.raw"  # fmt: skip
_CONTAINER = _no_disk("a container image (OCI or docker archive)",
                      "make a disk of it, if bootc is in it, as root, IMAGE being what the first command prints: "
                      f"podman load -i {{file}}; {_BOOTC}")  # fmt: skip
#: A directory with this file is an OCI image (OCI image specification, image-layout.md).
OCI_LAYOUT = "oci-layout"
CONTAINER_DIRECTORY = _no_disk("a container image (an OCI image layout)",
                               "make a disk of it, if bootc is in it, as root, IMAGE being what the first command "
                               f"prints: podman pull oci:{{file}}; {_BOOTC}")  # fmt: skip
_APPLIANCE = _no_disk("a virtual appliance (OVA)", "unpack it, tar -xf {file}, and convert the disk in it: "
                      "qemu-img convert -f vmdk -O qcow2 DISK.vmdk {qcow2}")  # fmt: skip
_TAR = _no_disk("a tar archive", "unpack it: tar -xf {file}")
_ZEROS = _no_disk("empty: its first bytes are zeros", "make it again: nothing was written to the start of the disk")


def identify(head: bytes, tail: bytes, size: int) -> DiskFormat | FileFormat:
    """Returns the format of a file: that of a disk, RAW if nothing else fits, or one that is not to be booted.

    Args:
        head: its first HEAD bytes, or all of them.
        tail: its last TAIL bytes, or all of them.
        size: its size in bytes.
    """
    return (_supported(head)
            or next((kind for magic, kind in _COMPRESSED if head.startswith(magic)), None)
            or _at(_DISKS, head) or _trailer(tail) or _executable(head) or _iso(head, size)
            or _at(_OTHERS, head) or _archive(head)
            or (None if has_boot_sector(head) else _at(_FILE_SYSTEMS, head) or _blank(head))
            or DiskFormat.RAW)  # fmt: skip


def has_boot_sector(head: bytes) -> bool:
    """Returns whether there is a boot sector; a GPT has one as well, for protection."""
    return head[510:512] == b"\x55\xaa"


def vhd_footer(tail: bytes) -> int | None:
    """Returns where in the last bytes of a file the footer of a VHD begins, or None.

    It has 512 bytes, in old files 511 (Virtual Hard Disk Image Format Specification 1.0).
    """
    starts = (len(tail) - 512, len(tail) - 511)
    return next((start for start in starts if start >= 0 and tail.startswith(VHD_MAGIC, start)), None)


def _supported(head: bytes) -> DiskFormat | None:
    """The supported format that has its magic number at the start."""
    magics = {MAGIC: DiskFormat.QCOW2, VHD_MAGIC: DiskFormat.VHD, VHDX_MAGIC: DiskFormat.VHDX,
              VMDK_MAGIC: DiskFormat.VMDK}  # fmt: skip
    return None if head.startswith(_QCOW1) else next((kind for magic, kind in magics.items() if head.startswith(magic)),
                                                     None)


def _at(rows: tuple[tuple[int, bytes, FileFormat], ...], head: bytes) -> FileFormat | None:
    return next((kind for offset, magic, kind in rows if head[offset:offset + len(magic)] == magic), None)


def _trailer(tail: bytes) -> DiskFormat | FileFormat | None:
    """A fixed VHD is a raw disk with a footer."""
    if vhd_footer(tail) is not None:
        return DiskFormat.VHD_FIXED
    return _disk("a macOS disk image (DMG)", "dmg") if tail[-512:].startswith(b"koly") else None


def _executable(head: bytes) -> FileFormat | None:
    """Kernels (Documentation/arch/x86/boot.rst) have a boot sector's mark; an EFI program has a PE header."""
    if has_boot_sector(head) and head[514:518] == b"HdrS":
        return _KERNEL
    if not head.startswith(b"MZ") or len(head) < 64:
        return None
    header = struct.unpack_from("<I", head, 60)[0]
    if head[header:header + 4] != b"PE\0\0":
        return None
    return _UNIFIED_KERNEL if b".osrel\0" in head[header:header + 4096] else _EFI_PROGRAM


def _iso(head: bytes, size: int) -> FileFormat | None:
    """ECMA-119, 8.4; one that is far smaller than the file was overwritten by another disk, and left there."""
    descriptor = head[_ISO_DESCRIPTOR:_ISO_DESCRIPTOR + _ISO_BLOCK]
    if descriptor[:6] != b"\x01CD001" or len(descriptor) < 84:
        return None
    return _ISO if 2 * _ISO_BLOCK * struct.unpack_from("<I", descriptor, 80)[0] >= size else None


def _archive(head: bytes) -> FileFormat | None:
    if head[257:262] != b"ustar":
        return None
    names = _members(head)
    if any(name.startswith((OCI_LAYOUT, "index.json", "manifest.json", "blobs/")) for name in names):
        return _CONTAINER
    return _APPLIANCE if any(name.endswith(".ovf") for name in names) else _TAR


def _members(head: bytes) -> list[str]:
    """The names of the first members of a tar archive (POSIX.1-2017, pax: ustar Interchange Format)."""
    names: list[str] = []
    offset = 0
    while len(names) < _MOST_MEMBERS and head[offset + 257:offset + 262] == b"ustar":
        names.append(head[offset:offset + 100].partition(b"\0")[0].decode("utf-8", "replace").removeprefix("./"))
        digits = head[offset + 124:offset + 136].strip(b" \0")
        length = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else 0
        offset += _TAR_BLOCK + -(-length // _TAR_BLOCK) * _TAR_BLOCK
    return names


def _blank(head: bytes) -> FileFormat | None:
    return _ZEROS if head and not any(head) else None


def _argument(path: Path) -> str:
    """The path as one word of a shell's command line that no tool takes for an option or for a protocol."""
    text = str(path)
    return shlex.quote(text if text.startswith("/") else f"./{text}" if text.startswith("-") or ":" in text else text)
