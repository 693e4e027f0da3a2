"""The user's image: examined before QEMU opens it, refused if it is hostile, never written."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.disk.image_formats import (
    CONTAINER_DIRECTORY,
    HEAD,
    OCI_LAYOUT,
    TAIL,
    DiskFormat,
    FileFormat,
    has_boot_sector,
    identify,
    with_commands,
)
from lifsea_testbed.disk.image_lock import is_written, users
from lifsea_testbed.disk.qcow2_header import (
    LARGEST,
    IncompatibleFeature,
    parse_qcow2_header,
    unknown_features,
)
from lifsea_testbed.disk.source import ByteSource, RawFile
from lifsea_testbed.disk.vhd import CONVERT
from lifsea_testbed.disk.virtual_disk import virtual_disk
from lifsea_testbed.errors import DiskDamaged, HostError, ImageRefused, NotJudged
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
_LOCKED, _NO_MEMORY, _DAMAGED = 'Failed to get shared "write" lock', "Cannot allocate memory", 2
#: What qemu-img check ends with if nothing is wrong, or clusters are leaked, which does no harm (qemu-img(1)).
_SOUND = (0, 3)
_GIVE = "give --image the path of a disk image: qcow2, raw, VHD, VHDX or VMDK"
#: The largest file that is accepted: its digest takes six minutes at 1.4 GB/s.
LARGEST_FILE = 512 << 30


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

    @property
    def driver(self) -> dict[str, str | int]:
        """The options of QEMU's block driver that reads the disk in the file."""
        return self.format.driver(self.virtual_size)

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
        found = _contents(reader, path)
        if found.format not in (DiskFormat.RAW, DiskFormat.VHD_FIXED):
            _refuse_inconsistent(path, found, descriptor)
        if found.format is DiskFormat.QCOW2:
            # A disk that is not read offline, for its features or its size, is left to the machine.
            with contextlib.suppress(DiskDamaged, NotJudged):
                reader.ask(require_boot_sector, str(path), found.format)
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
    form = identify(head, _tail(file), file.size)
    if isinstance(form, FileFormat):
        raise ImageRefused(f"{name}: is {form.name}, not a disk image that is read as it is",
                           hint=form.hint(Path(name)))
    if form is DiskFormat.QCOW2:
        return _qcow2_contents(name, head)
    return _raw_contents(name, head, file.size) if form is DiskFormat.RAW else _other_contents(file, name, form)


@question("the start of its disk")
def require_boot_sector(file: ByteSource, name: str, form: DiskFormat) -> None:
    """Makes sure that the disk in a file of that format, which errors call by that name, is one that boots.

    Raises:
        ImageRefused: it is empty, has no partition table, or is a file of another format that was taken for a disk.
        DiskDamaged, NotJudged: it cannot be read offline.
    """
    _require_boot_sector(virtual_disk(form, file), name)


def _require_boot_sector(disk: ByteSource, name: str) -> None:
    head = disk.read_at(0, min(HEAD, disk.size))
    other = identify(head, _tail(disk), disk.size)
    if other is not DiskFormat.RAW:
        what = other.name if isinstance(other, FileFormat) else f"itself a file of the format {other}"
        raise ImageRefused(f"{name}: the disk in it is {what}",
                           hint="make it from the image of a whole disk; qemu-img convert -O raw IN OUT takes that out")
    if not has_boot_sector(head):
        raise ImageRefused(f"{name}: the disk in it has no partition table",
                           hint="make it from the image of a whole disk")
    _refuse_truncated(name, head, disk.size)


def _tail(file: ByteSource) -> bytes:
    length = min(TAIL, file.size)
    return file.read_at(file.size - length, length)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _reader(path: Path) -> ConfinedReader:
    """The reader of the open file; a pipe is not waited for."""
    try:
        if (path / OCI_LAYOUT).is_file():
            raise ImageRefused(f"{path}: is {CONTAINER_DIRECTORY.name}", hint=CONTAINER_DIRECTORY.hint(path))
        return ConfinedReader(__name__, [open_file(path)], name=str(path))
    except FileNotFoundError:
        raise ImageRefused(f"{path}: no such image", hint=_GIVE) from None
    except OSError as error:
        raise ImageRefused(f"{path}: not readable: {error.strerror}", hint="check its permissions") from None


def _contents(reader: ConfinedReader, path: Path) -> ImageContents:
    try:
        return reader.ask(contents, str(path))
    except (DiskDamaged, NotJudged) as error:
        raise ImageRefused(f"{path}: cannot be examined: {error}", hint="copy it again, compare digests") from None


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
    if header.has_backing_file or header.incompatible & IncompatibleFeature.EXTERNAL_DATA:
        other = "a backing file" if header.has_backing_file else "an external data file"
        raise ImageRefused(f"{path}: refers to {other}, which is never opened",
                           hint="flatten it: qemu-img convert -O qcow2 IN OUT")
    if header.encrypted:
        raise ImageRefused(f"{path}: is encrypted", hint="decrypt it: qemu-img convert")
    if header.incompatible & (IncompatibleFeature.DIRTY | IncompatibleFeature.CORRUPT):
        raise ImageRefused(f"{path}: was not closed cleanly or is marked corrupt", hint="qemu-img check -r all")
    if not 0 < header.virtual_size <= LARGEST:
        raise ImageRefused(f"{path}: claims a disk of {header.virtual_size} bytes", hint="64 TiB is the most")
    return ImageContents(format=DiskFormat.QCOW2, virtual_size=header.virtual_size,
                         unknown_features=unknown_features(head))  # fmt: skip


def _other_contents(file: ByteSource, name: str, form: DiskFormat) -> ImageContents:
    """What a VHD, VHDX or VMDK says; its disk is read at once, since its readers know all that QEMU does of it."""
    try:
        disk = virtual_disk(form, file)
        if not 0 < disk.size <= LARGEST:
            raise ImageRefused(f"claims a disk of {disk.size} bytes", hint="64 TiB is the most")
    except (DiskDamaged, ImageRefused) as error:
        raise ImageRefused(f"{name}: {error.happened}", hint=with_commands(error.hint, Path(name))) from None
    _require_boot_sector(disk, name)
    return ImageContents(format=form, virtual_size=disk.size)


def _refuse_inconsistent(path: Path, found: ImageContents, descriptor: int) -> None:
    # By its descriptor: a name could be an option or a protocol for QEMU (json:, nbd:), or another file by now.
    name = f"/proc/self/fd/{descriptor}"
    # There is no check of a VHD; opening it checks its table, and tells the size for which QEMU takes the disk.
    is_vhd = found.format is DiskFormat.VHD
    does = ["info", "--output=json", "-f", "vpc"] if is_vhd else ["check", "-q", "-f", str(found.format)]
    command = ["qemu-img", *does, "--", name]
    if shutil.which("qemu-img") is None:
        raise HostError("qemu-img not found on PATH", hint=install_hint("qemu-img"))
    try:
        with confined(Path(name)) as confinement:
            check = run_tool(confinement.wrap(command, limits=_CHECK), within=120.0, inherit=[descriptor])
    except Late:
        raise ImageRefused(f"{path}: qemu-img check did not end within 120 s", hint="copy it again") from None
    status = exit_status(check.returncode) or 0
    if status in _SOUND:
        return _refuse_cut(path, found, check.stdout)
    if _LOCKED in check.stderr:
        raise _in_use(path, descriptor)
    raise _failed_check(path, found, status, check.stderr.replace(name, str(path)))


def _refuse_cut(path: Path, found: ImageContents, output: str) -> None:
    """Refuses a VHD of which this QEMU shows less to a guest than is read here; versions of it differ in that."""
    if found.format is DiskFormat.VHD and (size := json.loads(output)["virtual-size"]) != found.virtual_size:
        raise ImageRefused(f"{path}: is a VHD of {found.virtual_size} bytes, of which this QEMU reads {size}",
                           hint=with_commands(CONVERT, path))  # fmt: skip


def _failed_check(path: Path, found: ImageContents, status: int, output: str) -> ImageRefused:
    """The refusal of an image that `qemu-img check` ended with that status on: 2 means damage (qemu-img(1))."""
    last = (split_lines(printable(output).strip()) or [f"qemu-img check ended with status {status}"])[-1]
    if found.unknown_features:
        return ImageRefused(f"{path}: has features that this QEMU does not know: {', '.join(found.unknown_features)}",
                            evidence=last, hint="it needs a newer QEMU, or an image made with fewer features")
    if status < 0:
        return ImageRefused(f"{path}: qemu-img check was stopped by signal {-status}",
                            expected="at most 100 s of processor time and 4 GiB of memory", hint="copy it again")
    if status != _DAMAGED and _NO_MEMORY in output:
        return ImageRefused(f"{path}: cannot be checked in 4 GiB of memory ({last})",
                            hint="make a sound copy: qemu-img convert -O qcow2 IN OUT")
    what = f"truncated or corrupt {found.format}" if status == _DAMAGED else f"no {found.format} disk that QEMU opens"
    return ImageRefused(f"{path}: {what} ({last})", hint="copy it again, compare digests")


def _raw_contents(path: str, head: bytes, size: int) -> ImageContents:
    if not has_boot_sector(head):
        raise ImageRefused(f"{path}: not a disk image (no qcow2 header, no partition table)", hint=_GIVE)
    if size % SECTOR:
        raise ImageRefused(f"{path}: ends in the middle of a sector: {size} bytes are no multiple of {SECTOR}",
                           hint="copy it again, compare digests; if it was made so: truncate -s %512 COPY")
    _refuse_truncated(path, head, size)
    return ImageContents(format=DiskFormat.RAW, virtual_size=size)


def _refuse_truncated(name: str, head: bytes, size: int) -> None:
    if head[SECTOR:SECTOR + 8] == b"EFI PART":
        backup = (struct.unpack_from("<Q", head, SECTOR + 32)[0] + 1) * SECTOR
        if backup > size:
            raise ImageRefused(f"{name}: truncated: its partition table ends at byte {backup}, the disk at {size}",
                               hint="copy it again, compare digests")
