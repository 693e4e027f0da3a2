"""The user's image: examined before QEMU opens it, refused if it is hostile, never written."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.disk.image_formats import HEAD, TAIL, identify
from lifsea_testbed.disk.image_lock import is_written, users
from lifsea_testbed.disk.source import ByteSource, RawFile
from lifsea_testbed.errors import HostError, ImageRefused
from lifsea_testbed.support.confinement import Limits, confined, exit_status
from lifsea_testbed.support.host_packages import install_hint
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.programs import Late, run_tool
from lifsea_testbed.support.questions import question
from lifsea_testbed.support.reader import ConfinedReader, open_file
from lifsea_testbed.support.sanitize import printable

SECTOR = 512
#: The bounds of qemu-img check.
_CHECK = Limits(memory=4 << 30, cpu=100, file_size=0)
_PIECE = 1 << 20
_QCOW2_MAGIC = b"QFI\xfb"
_QCOW2_DIRTY, _QCOW2_CORRUPT, _QCOW2_EXTERNAL_DATA = 1, 2, 4
_KNOWN_FEATURES, _FEATURE_NAMES = 0b11111, 0x6803F857
_LOCKED, _NO_MEMORY, _DAMAGED = 'Failed to get shared "write" lock', "Cannot allocate memory", 2
_GIVE = "give --image the path of a qcow2 or raw disk image"
#: The largest virtual disk that is accepted: cloud disks of an ecs.g7 have at most 64 TiB (ESSD, block storage limits).
LARGEST = 64 << 40
#: The largest file that is accepted: its digest takes six minutes at 1.4 GB/s.
LARGEST_FILE = 512 << 30


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
        return self.path.exists() and _stamp(self.path.stat()) == self.stamp


@dataclass(frozen=True, kw_only=True)
class ImageContents:
    """What an image's header says; `virtual_size` in bytes, `unknown_features` are those that QEMU 10 does not know."""

    format: DiskFormat
    virtual_size: int
    unknown_features: tuple[str, ...] = ()


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
        ImageRefused: it does not exist, is no regular file or no disk image, is truncated, corrupt or encrypted, refers
            to another file, or another program writes to it.
    """
    with contextlib.closing(_reader(path)) as reader:
        descriptor = reader.files[0]
        status = os.fstat(descriptor)
        _refuse_large(path, status.st_size)
        if is_written(descriptor):
            raise _in_use(path, descriptor)
        found = reader.ask(contents, str(path))
        if found.format is DiskFormat.QCOW2:
            _refuse_inconsistent(path, found.unknown_features, descriptor)
        return Image(path=path.resolve(), format=found.format, virtual_size=found.virtual_size,
                     file_size=status.st_size, stamp=_stamp(status))  # fmt: skip


# In the reader's process


def opened(arguments: Sequence[str]) -> RawFile:
    """Returns the open file with that descriptor."""
    return RawFile(int(arguments[0]))


@question("its header")
def contents(file: ByteSource, name: str) -> ImageContents:
    """Returns what the first and last bytes of a file say, which errors call by that name.

    Raises:
        ImageRefused: it is no disk image, is truncated, corrupt or encrypted, or refers to another file.
    """
    head = file.read_at(0, min(HEAD, file.size))
    tail = min(TAIL, file.size)
    if other := identify(head, file.read_at(file.size - tail, tail), file.size):
        raise ImageRefused(f"{name}: is {other.name}, neither qcow2 nor raw", hint=other.hint(Path(name)))
    return _qcow2_contents(name, head) if head.startswith(_QCOW2_MAGIC) else _raw_contents(name, head, file.size)


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


def unknown_features(head: bytes) -> tuple[str, ...]:
    """Returns the incompatible features of a qcow2 file that are not in docs/interop/qcow2.txt of QEMU 10.

    Each is `bit N`, with the name that the file's own table of feature names gives it, if it has one.
    """
    bits = parse_qcow2_header(head).incompatible & ~_KNOWN_FEATURES
    names = _feature_names(head)
    return tuple(f"{names[bit]} (bit {bit})" if bit in names else f"bit {bit}" for bit in range(64) if bits >> bit & 1)


def _feature_names(head: bytes) -> dict[int, str]:
    """The names of incompatible features: rows of type, bit and 46 bytes of name, in a header extension."""
    place = struct.unpack_from(">I", head, 100)[0] if len(head) >= 104 else len(head)
    while place + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, place)
        if kind == _FEATURE_NAMES:
            table = head[place + 8:place + 8 + length]
            rows = (table[start:start + 48] for start in range(0, len(table), 48))
            return {row[1]: printable(row[2:].partition(b"\0")[0].decode("ascii", "replace")) for row in rows
                    if len(row) == 48 and row[0] == 0}
        place += 8 + -(-length // 8) * 8 if kind else len(head)
    return {}


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _reader(path: Path) -> ConfinedReader:
    """The reader of the open file; a pipe is not waited for."""
    try:
        return ConfinedReader(__name__, [open_file(path)], name=str(path))
    except FileNotFoundError:
        raise ImageRefused(f"{path}: no such image", hint=_GIVE) from None
    except OSError as error:
        raise ImageRefused(f"{path}: not readable: {error.strerror}", hint="check its permissions") from None


def _refuse_large(path: Path, size: int) -> None:
    if size > LARGEST_FILE:
        raise ImageRefused(f"{path}: is a file of {size >> 30} GiB", expected=f"at most {LARGEST_FILE >> 30} GiB",
                           hint=f"{LARGEST_FILE >> 30} GiB is the most: its digest is computed; a sparse file becomes "
                           "small by qemu-img convert -f raw -O qcow2 IN OUT")  # fmt: skip


def _in_use(path: Path, descriptor: int) -> ImageRefused:
    by = ", ".join(users(descriptor)) or "of another user or host"
    return ImageRefused(f"{path}: is in use by another program that writes to it: {by}",
                        hint="stop that machine, or give --image a copy made while it is off")


def _qcow2_contents(path: str, head: bytes) -> ImageContents:
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
    return ImageContents(format=DiskFormat.QCOW2, virtual_size=header.virtual_size,
                         unknown_features=unknown_features(head))  # fmt: skip


def _refuse_inconsistent(path: Path, features: Sequence[str], descriptor: int) -> None:
    # By its descriptor: a name could be an option or a protocol for QEMU (json:, nbd:), or another file by now.
    name = f"/proc/self/fd/{descriptor}"
    command = ["qemu-img", "check", "-q", "-f", "qcow2", "--", name]
    if shutil.which("qemu-img") is None:
        raise HostError("qemu-img not found on PATH", hint=install_hint("qemu-img"))
    try:
        with confined(Path(name)) as confinement:
            check = run_tool(confinement.wrap(command, limits=_CHECK), within=120.0, inherit=[descriptor])
    except Late:
        raise ImageRefused(f"{path}: qemu-img check did not end within 120 s", hint="copy it again") from None
    # 3 means leaked clusters only (qemu-img(1)): they waste space and do no harm.
    status = exit_status(check.returncode) or 0
    if status in (0, 3):
        return
    if _LOCKED in check.stderr:
        raise _in_use(path, descriptor)
    raise _failed_check(path, features, status, check.stderr.replace(name, str(path)))


def _failed_check(path: Path, features: Sequence[str], status: int, output: str) -> ImageRefused:
    """The refusal of an image that `qemu-img check` ended with that status on: 2 means damage (qemu-img(1))."""
    last = (split_lines(printable(output).strip()) or [f"qemu-img check ended with status {status}"])[-1]
    if features:
        return ImageRefused(f"{path}: has features that this QEMU does not know: {', '.join(features)}",
                            evidence=last, hint="it needs a newer QEMU, or an image made with fewer features")
    if status < 0:
        return ImageRefused(f"{path}: qemu-img check was stopped by signal {-status}",
                            expected="at most 100 s of processor time and 4 GiB of memory", hint="copy it again")
    if status != _DAMAGED and _NO_MEMORY in output:
        return ImageRefused(f"{path}: cannot be checked in 4 GiB of memory ({last})",
                            hint="make a sound copy: qemu-img convert -O qcow2 IN OUT")
    what = "truncated or corrupt qcow2" if status == _DAMAGED else "no qcow2 disk that QEMU opens"
    return ImageRefused(f"{path}: {what} ({last})", hint="copy it again, compare digests")


def _raw_contents(path: str, head: bytes, size: int) -> ImageContents:
    if head[510:512] != b"\x55\xaa":
        raise ImageRefused(f"{path}: not a disk image (no qcow2 header, no partition table)", hint=_GIVE)
    if size % SECTOR:
        raise ImageRefused(f"{path}: ends in the middle of a sector: {size} bytes are no multiple of {SECTOR}",
                           hint="copy it again, compare digests; if it was made so: truncate -s %512 COPY")
    if head[SECTOR:SECTOR + 8] == b"EFI PART":
        backup = (struct.unpack_from("<Q", head, SECTOR + 32)[0] + 1) * SECTOR
        if backup > size:
            raise ImageRefused(f"{path}: truncated: its partition table ends at byte {backup}, the file at {size}",
                               hint="copy it again, compare digests")
    return ImageContents(format=DiskFormat.RAW, virtual_size=size)
