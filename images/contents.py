"""What an image holds, read from its disk: Debian packages, programs that the recipes build, and every Go program."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from images.bootloader import ESP_GRUB, ESP_LOADER
from images.errors import BuildError
from images.fetched import Fetched
from lifsea_testbed.disk.fat import Fat, is_fat
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.image import examine
from lifsea_testbed.disk.layers import opened
from lifsea_testbed.disk.os_root import os_root
from lifsea_testbed.disk.partitions import ESP, partitions
from lifsea_testbed.disk.source import ByteSource, RawFile
from lifsea_testbed.guest.system import parse_os_release

_DATABASES = ("/usr/share/package-db/status", "/var/lib/dpkg/status")
_NOT_WALKED = tuple(map(PurePosixPath, ("/proc", "/sys", "/dev", "/run", "/sysroot", "/ostree")))
#: The content of /var/lib/containerd, where /var is on a data disk.
_CONTAINERS = PurePosixPath("/usr/share/lifsea/var.tar")
_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
_GO, _GO_INLINE, _GO_STRINGS, _GO_SENTINEL = b"\xff Go buildinf:", 2, 32, 16


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """An installed package, as the database of the image has it."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    maintainer: str


@dataclass(frozen=True, kw_only=True)
class GoModule:
    """A module that is compiled into a Go program."""

    path: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program or file that no Debian package of the image brought.

    `licence` is an SPDX expression, `version` empty where nothing tells it, `made_of` the packages that it is made of.
    """

    name: str
    path: str
    version: str
    licence: str
    sha256: str
    made_of: tuple[Fetched, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GoProgram:
    """A Go program: its main package, the Go that compiled it, and its modules, if it was built with modules."""

    path: str
    main: str
    go: str
    sha256: str
    modules: tuple[GoModule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is in an image; `release` are the fields of its os-release, `debian` the release of Debian below it."""

    release: dict[str, str]
    debian: str
    packages: tuple[DebianPackage, ...]
    programs: tuple[Program, ...]
    go: tuple[GoProgram, ...]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A program of the recipes: where it lies, the artefact and file that it is from, and what tells its version.

    That is an expression for its content, or the package whose version it has.
    """

    name: str
    path: str
    licence: str
    artefact: str = ""
    file: str = ""
    version: bytes = b""
    package: str = ""


_GRUB = _Known(name="grub", path=f"partition {_BIOS_BOOT}", licence="GPL-3.0-or-later", artefact="grub",
               file="core.img", package="grub-pc-bin")  # fmt: skip
_ON_ESP = (
    _Known(name="shim", path=str(ESP_LOADER), licence="BSD-2-Clause", artefact="esp", file=str(ESP_LOADER),
           package="shim-signed"),
    _Known(name="grub", path=str(ESP_GRUB), licence="GPL-3.0-or-later", artefact="esp", file=str(ESP_GRUB),
           package="grub-efi-amd64-bin"),
)  # fmt: skip
_KNOWN = (
    _Known(name="linux", path="/usr/lib/modules/*/vmlinuz", artefact="kernel",
           licence="GPL-2.0-only WITH Linux-syscall-note", version=rb"(\d+\.\d+\.\d+\S*) \(root@reference\)"),
    _Known(name="kubelet", path="/usr/*bin/kubelet", licence="Apache-2.0", artefact="kubelet", file="kubelet",
           version=rb"v(1\.\d\d\.\d+)(?![\w.])"),
    _Known(name="ostree-prepare-root", path="/usr/lib/ostree/ostree-prepare-root", licence="LGPL-2.0-or-later",
           artefact="prepare-root", file="ostree-prepare-root", package="ostree"),
    _Known(name="busybox", path="*/fs/bin/busybox", licence="GPL-2.0-only", artefact="containers",
           file="io.containerd.snapshotter.v1.overlayfs/snapshots/2/fs/bin/busybox",
           version=rb"BusyBox v\d\S* \(Debian ([^)\s]+)\)"),
    _Known(name="dash", path="*/fs/bin/sh", licence="BSD-3-Clause", artefact="containers", package="dash",
           file="io.containerd.snapshotter.v1.overlayfs/snapshots/3/fs/bin/sh"),
    _Known(name="pause", path="*/fs/pause", licence="Apache-2.0"),
    _Known(name="preinit", path="/usr/libexec/lifsea/preinit", licence="Apache-2.0"),
    _Known(name="lifseacli", path="/usr/bin/lifseacli", licence="Apache-2.0"),
)  # fmt: skip
#: Returns the packages that a program is made of, by the names of artefact and file, and by its content.
Origin = Callable[[str, str, bytes], list[Fetched]]


def read(image: Path, origin: Origin) -> Contents:
    """Reads the image, which is trusted: it was built on this host.

    Raises:
        BuildError: it has no database of Debian packages.
    """
    with RawFile(image) as file:
        tree = os_root(disk := opened(examine(image).format, [file])).tree
        programs = [_program(known, known.path, content, origin) for known, content in _boot_loaders(disk)]
        go: list[GoProgram] = []
        for path, content in _files(tree):
            programs += [_program(known, path, content, origin) for known in _KNOWN if fnmatchcase(path, known.path)]
            if found := go_program(path, content):
                go.append(found)
        status = next((text for text in map(tree.read, _DATABASES) if text is not None), None)
        release, debian = (tree.read(path) or b"" for path in ("/usr/lib/os-release", "/etc/debian_version"))
    if status is None:
        raise BuildError(f"{image} has no {' and no '.join(_DATABASES)}")
    return Contents(release=parse_os_release(release.decode()), debian=debian.decode().strip(), go=tuple(go),
                    packages=debian_packages(status.decode()), programs=tuple(programs))  # fmt: skip


def debian_packages(status: str) -> tuple[DebianPackage, ...]:
    """Returns the installed packages of a dpkg status file, sorted by name."""
    stanzas = [_fields(text) for text in status.split("\n\n") if text.strip()]
    return tuple(sorted((_debian(fields) for fields in stanzas if fields.get("Status", "").endswith(" installed")),
                        key=lambda package: (package.name, package.architecture)))  # fmt: skip


def go_program(path: str, content: bytes) -> GoProgram | None:
    """Reads what Go writes into its programs (Go's debug/buildinfo); None for other files.

    Programs of a Go before 1.18 have their main package and their modules elsewhere: they are left out.
    """
    place = _go_information(content) if content.startswith(b"\x7fELF") else None
    if place is None:
        return None
    go, behind = _go_string(content, place + _GO_STRINGS)
    lines = _go_string(content, behind)[0][_GO_SENTINEL:-_GO_SENTINEL].decode("utf-8", "replace").splitlines()
    rows = [line.split("\t") for line in lines]
    main = next((row[1] for row in rows if row[0] == "path"), "")
    modules = [GoModule(path=row[1], version=row[2]) for row in rows if row[0] in ("mod", "dep") and len(row) > 2]
    return GoProgram(path=path, main=main, go=go.decode("ascii", "replace").removeprefix("go"),
                     sha256=hashlib.sha256(content).hexdigest(), modules=tuple(modules))  # fmt: skip


def _go_information(content: bytes) -> int | None:
    """Where it begins; programs that read it have the same mark as a constant, at any place."""
    places = (match.start() for match in re.finditer(re.escape(_GO), content))
    return next((place for place in places if place % _GO_SENTINEL == 0 and place + _GO_STRINGS < len(content)
                 and content[place + 15] & _GO_INLINE), None)  # fmt: skip


def _go_string(content: bytes, place: int) -> tuple[bytes, int]:
    """A string behind its length, seven bits a byte (encoding/binary.Uvarint), and where it ends."""
    length, shift = 0, 0
    while True:
        byte = content[place]
        length, shift, place = length | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return content[place:place + length], place + length


def _files(tree: Tree) -> Iterator[tuple[str, bytes]]:
    """The files that can be run, with their content, and the kernel; those in the archive of /var as well."""
    for path, place in tree.walk(_NOT_WALKED):
        wanted = place.inode.mode & 0o111 or path == _CONTAINERS or path.name == "vmlinuz"
        if not place.is_regular or not wanted:
            continue
        content = place.read()
        if path == _CONTAINERS:
            yield from _members(content)
        else:
            yield str(path), content


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and member.mode & 0o111 and (file := tar.extractfile(member)):
                yield f"{_CONTAINERS}/{member.name}", file.read()


def _boot_loaders(disk: ByteSource) -> Iterator[tuple[_Known, bytes]]:
    """Those in front of the file systems, where a BIOS finds them, and on ESPs."""
    for part in partitions(disk):
        if part.kind == _BIOS_BOOT and any(content := part.content.read_at(0, part.content.size)):
            yield _GRUB, content
        if part.kind == ESP and is_fat(part.content):
            esp = Tree(root_of(Fat(part.content)))
            yield from ((known, file) for known in _ON_ESP if (file := esp.read(f"/{known.path}")))


def _program(known: _Known, path: str, content: bytes, origin: Origin) -> Program:
    made_of = origin(known.artefact, known.file, content) if known.file else []
    versions = {package.version for package in made_of if package.name == known.package}
    if known.version:
        versions = {match.decode() for match in re.findall(known.version, content)}
    return Program(name=known.name, path=path, licence=known.licence, sha256=hashlib.sha256(content).hexdigest(),
                   version=versions.pop() if len(versions) == 1 else "", made_of=tuple(made_of))  # fmt: skip


def _fields(text: str) -> dict[str, str]:
    """The lines `NAME: VALUE` of a stanza; those that go on from the line before are left out."""
    lines = (line.partition(": ") for line in text.splitlines() if line[:1].isalpha())
    return {name: value.strip() for name, _, value in lines}


def _debian(fields: dict[str, str]) -> DebianPackage:
    """Source is `NAME (VERSION)` where they differ from the package's (deb-control(5))."""
    source, _, version = fields.get("Source", fields["Package"]).partition(" ")
    return DebianPackage(name=fields["Package"], version=fields["Version"], architecture=fields["Architecture"],
                         source=source, source_version=version.strip("()") or fields["Version"],
                         maintainer=fields.get("Maintainer", ""))  # fmt: skip
