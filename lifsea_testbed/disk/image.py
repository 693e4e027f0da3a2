"""The user's image: examined before QEMU opens it, refused if it is hostile, never written."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import resource
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lifsea_testbed.errors import HostError, ImageRefused
from lifsea_testbed.support.host_packages import install_hint
from lifsea_testbed.support.lines import split_lines

SECTOR = 512
_PIECE = 1 << 20
_QCOW2_MAGIC = b"QFI\xfb"
_QCOW2_DIRTY, _QCOW2_CORRUPT, _QCOW2_EXTERNAL_DATA = 1, 2, 4
_OTHER_FORMATS = {b"KDMV": "VMDK", b"vhdxfile": "VHDX", b"conectix": "VHD", b"\x7fELF": "an ELF program",
                  b"\x1f\x8b": "a gzip file", b"\xfd7zXZ": "an xz file", b"\x28\xb5\x2f\xfd": "a zstd file"}
#: The largest virtual disk that is accepted: cloud disks of an ecs.g7 have at most 64 TiB (ESSD, block storage limits).
LARGEST = 64 << 40


class DiskFormat(enum.StrEnum):
    """The supported disk formats; QEMU always gets the format, it never probes for it."""

    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, kw_only=True)
class Image:
    """An examined disk image: `virtual_size` and `file_size` in bytes, `stamp` detects a changed file."""

    path: Path
    format: DiskFormat
    virtual_size: int
    file_size: int
    stamp: tuple[int, int, int]

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 digest of the file, in hexadecimal."""
        return digest(self.path)

    def fits_into(self, size: int) -> bool:
        """Returns whether the compressed size is at most `size` bytes; reads no more of the file than it takes."""
        return self.file_size <= size or self._deflated(size) <= size

    @functools.cached_property
    def compressed_size(self) -> int:
        """The bytes of the file, or of its content compressed by deflate at level 1 if those are fewer."""
        return min(self.file_size, self._deflated(self.file_size))

    def _deflated(self, most: int) -> int:
        """The bytes of the compressed content; any number above `most` if there are more."""
        deflate, compressed = zlib.compressobj(1), 0
        with self.path.open("rb") as file:
            while compressed <= most and (piece := file.read(_PIECE)):
                compressed += len(deflate.compress(piece))
        return compressed + len(deflate.flush())

    def trust_digest(self, sha256: str) -> None:
        """Takes the digest that another process of the run computed, instead of reading the file again.

        Raises:
            ImageRefused: the file was changed since it was examined.
        """
        if not self.unchanged:
            raise ImageRefused(f"{self.path}: was changed while the run started", hint="run again, with a copy of it")
        vars(self)["sha256"] = sha256

    @property
    def unchanged(self) -> bool:
        """Whether the file still has the inode, size and modification time that it had when it was examined."""
        return self.path.exists() and _stamp(self.path) == self.stamp


@dataclass(frozen=True, kw_only=True)
class Qcow2Header:
    """The fields of a qcow2 header that decide whether the file is accepted (QEMU docs/interop/qcow2.txt)."""

    version: int
    has_backing_file: bool
    virtual_size: int
    encrypted: bool
    incompatible: int


def digest(path: Path) -> str:
    """Returns the SHA-256 digest of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def examine(path: Path) -> Image:
    """Returns the image at that path.

    Raises:
        ImageRefused: it does not exist, is no regular file or no disk image, is truncated, corrupt or encrypted, or
            refers to another file.
    """
    _refuse_unreadable(path)
    with path.open("rb") as file:
        head = file.read(4096)
        disk_format = DiskFormat.QCOW2 if head.startswith(_QCOW2_MAGIC) else DiskFormat.RAW
        size = _examine_qcow2(path, head) if disk_format is DiskFormat.QCOW2 else _examine_raw(path, head, file)
    return Image(path=path.resolve(), format=disk_format, virtual_size=size, file_size=path.stat().st_size,
                 stamp=_stamp(path))


def parse_qcow2_header(head: bytes) -> Qcow2Header:
    """Parses the header of a qcow2 file from its first 104 bytes.

    Raises:
        ValueError: the bytes are too few, or not a qcow2 header of version 2 or 3.
    """
    try:
        magic, version, backing, _, _, size, crypt = struct.unpack_from(">4sIQIIQI", head)
        incompatible = struct.unpack_from(">Q", head, 72)[0] if version >= 3 else 0
    except struct.error:
        raise ValueError("the header is cut short") from None
    if magic != _QCOW2_MAGIC or version not in (2, 3):
        raise ValueError(f"unknown qcow2 version {version}")
    return Qcow2Header(version=version, has_backing_file=backing != 0, virtual_size=size, encrypted=crypt != 0,
                       incompatible=incompatible)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_unreadable(path: Path) -> None:
    if not path.exists():
        raise ImageRefused(f"{path}: no such image", hint="give --image the path of a qcow2 or raw disk image")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise ImageRefused(f"{path}: {kind}", hint="give --image the path of a qcow2 or raw disk image")
    if not os.access(path, os.R_OK):
        raise ImageRefused(f"{path}: not readable", hint="check its permissions")


def _examine_qcow2(path: Path, head: bytes) -> int:
    try:
        header = parse_qcow2_header(head)
    except ValueError as error:
        raise ImageRefused(f"{path}: not a whole qcow2 image: {error}", hint="copy it again") from None
    if header.has_backing_file or header.incompatible & _QCOW2_EXTERNAL_DATA:
        other = "a backing file" if header.has_backing_file else "an external data file"
        raise ImageRefused(f"{path}: refers to {other}, which is never opened",
                           hint="flatten it: qemu-img convert -O qcow2 IN OUT")
    if header.encrypted:
        raise ImageRefused(f"{path}: is encrypted", hint="decrypt it: qemu-img convert")
    if header.incompatible & (_QCOW2_DIRTY | _QCOW2_CORRUPT):
        raise ImageRefused(f"{path}: was not closed cleanly or is marked corrupt", hint="qemu-img check -r all")
    if not 0 < header.virtual_size <= LARGEST:
        raise ImageRefused(f"{path}: claims a disk of {header.virtual_size} bytes", hint="64 TiB is the most")
    _refuse_inconsistent(path)
    return header.virtual_size


def _refuse_inconsistent(path: Path) -> None:
    command = ["qemu-img", "check", "-q", "-f", "qcow2", str(path)]
    try:
        check = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120,
                               preexec_fn=_bound_resources)
    except FileNotFoundError:
        raise HostError("qemu-img not found on PATH", hint=install_hint("qemu-img")) from None
    except subprocess.TimeoutExpired:
        raise ImageRefused(f"{path}: qemu-img check did not end within 120 s", hint="copy it again") from None
    # 3 means leaked clusters only (qemu-img(1)): they waste space and do no harm.
    if check.returncode not in (0, 3):
        last = (split_lines(check.stderr.strip()) or [f"qemu-img check exited with {check.returncode}"])[-1]
        raise ImageRefused(f"{path}: truncated or corrupt qcow2 ({last})", hint="copy it again, compare digests")


def _bound_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))


def _examine_raw(path: Path, head: bytes, file: BinaryIO) -> int:
    size = path.stat().st_size
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise ImageRefused(f"{path}: is {name}, neither qcow2 nor raw", hint="qemu-img convert -O qcow2 IN OUT")
    if len(head) < 2 * SECTOR or size % SECTOR or head[510:512] != b"\x55\xaa":
        raise ImageRefused(f"{path}: not a disk image (no qcow2 header, no partition table)",
                           hint="give --image a qcow2 or raw disk image")
    if head[SECTOR:SECTOR + 8] == b"EFI PART":
        backup = (struct.unpack_from("<Q", head, SECTOR + 32)[0] + 1) * SECTOR
        if backup > size:
            raise ImageRefused(f"{path}: truncated: its partition table ends at byte {backup}, the file at {size}",
                               hint="copy it again, compare digests")
    del file
    return size
