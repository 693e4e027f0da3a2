"""The parsers, each with sound inputs, what reads one input, and the errors that it declares."""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lifsea_testbed.console import port_frames
from lifsea_testbed.console.serial_frames import Splitter
from lifsea_testbed.disk import boot_choice, boot_entries, image, journal, mounts
from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.disk.partitions import ESP, Partition, partitions
from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.ecs import time_frames
from lifsea_testbed.ecs.metadata import time_to_live
from lifsea_testbed.errors import ChannelError, DiskDamaged, ImageRefused, NotJudged, TestbedError
from lifsea_testbed.guest import (
    accounts,
    changes,
    disks,
    hardware,
    initramfs,
    kernel_log,
    network,
    ostree,
    ostree_objects,
    packages,
    pam,
    pending,
    protobuf,
    rpm,
    sqlite_log,
    system,
)
from lifsea_testbed.powercut.write_log import WriteLog
from lifsea_testbed.profiles.recognition import ReleaseFacts
from lifsea_testbed.support.sanitize import printable
from tests.disk.test_boot_choice import unified_kernel
from tests.disk.test_disk import log, tag
from tests.fuzz import file_systems, virtual_disks
from tests.fuzz.file_systems import Bytes
from tests.guest.test_rpm import berkeley, header, ndb
from tests.support import disks as made

#: What a parser of answers may raise (guest.answers.readable makes AnswerUnreadable of them).
UNREADABLE = (ValueError, LookupError, ArithmeticError, RecursionError, struct.error)
DISK = (DiskDamaged, NotJudged)
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parser: its sound inputs, a function that reads one input, and the errors that it may raise."""

    inputs: Callable[[], list[bytes]]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    of_image: bool = field(default=False)


class Text:
    """A regular file with this content."""

    is_regular = True

    def __init__(self, content: bytes) -> None:
        self._content = content

    def part(self, offset: int, length: int) -> bytes:
        """Returns so many bytes of it from that offset on, fewer where it ends."""
        return self._content[offset:offset + length]


class Names:
    """What a file system is called."""

    identifier, label = "1-2", "root-a"


class Texts:
    """A tree of the same text in each of its files."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, path: object, limit: int) -> bytes:
        """Returns the text."""
        return self._content[:limit]

    def glob(self, pattern: str) -> list[PurePosixPath]:
        """Returns one path that matches."""
        return [PurePosixPath(pattern.replace("*", "a"))]

    def names(self, path: object) -> list[str]:
        """Returns no name in a directory."""
        return []

    def find(self, path: object) -> Text:
        """Returns the one file."""
        return Text(self._content)


def _qcow2(data: bytes) -> None:
    disk = Qcow2(Bytes(data))
    for offset in range(0, min(disk.size, 4 * _MIB), 65536):
        disk.read_at(offset, min(512, disk.size - offset))
    for number, _ in enumerate(disk.own()):
        if number > 1000:
            break


def _partitions(data: bytes) -> None:
    for partition in partitions(Bytes(data)):
        partition.content.read_at(0, min(512, partition.content.size))


def _journal(data: bytes) -> None:
    blocks = {100 + number: data[512 * number:512 * (number + 1)].ljust(512, b"\0") for number in range(20)}
    places = {number: number + 100 for number in range(20)}
    journal.newer_blocks(blocks.__getitem__, places)
    journal.read_by_recovery(blocks.__getitem__, places)


def _mounts(data: bytes) -> None:
    tree: Any = Texts(data)
    mounts.mounted(tree, [])


def _unified(data: bytes) -> None:
    initramfs.holds_initramfs(data)
    place: Any = Text(data)
    boot_entries.unified("a+3-1.efi", place)


def _choice(data: bytes) -> None:
    """Every file on the disk is the same: an entry, loader.conf, an environment of GRUB, RAUC's configuration."""
    tree: Any = Texts(data)
    system: Any = Names()
    for kind in (ESP, ""):
        partition = Partition(number=1, first=1, content=Bytes(data), kind=kind)
        volume = mounts.Volume(partition=partition, file_system=system, tree=tree)
        boot_choice.next_entry([volume])
        boot_choice.ordered_slot([volume], [volume])


def _sqlite(data: bytes) -> None:
    tree: Any = Database(data)
    rpm.packages(tree)


class Database:
    """A tree of an rpm database and its log, which lies behind a mark in one input."""

    MARK = b"<the log begins>"

    def __init__(self, data: bytes) -> None:
        self._database, _, self._log = data.partition(self.MARK)

    def read(self, path: PurePosixPath, limit: int) -> bytes | None:
        """Returns the database, or its log."""
        return {"rpmdb.sqlite": self._database, "rpmdb.sqlite-wal": self._log}.get(path.name)


def _release(data: bytes) -> None:
    fields = system.parse_os_release(_text(data))
    assert str(ReleaseFacts(os_release=fields, system_release=_text(data)))
    ReleaseFacts(os_release=fields, system_release=_text(data)).version  # noqa: B018


def _accounts(data: bytes) -> None:
    text = _text(data)
    accounts.opened(lambda patterns: {"/etc/passwd": text})
    accounts.parse_services(text)
    accounts.parse_processes(text.split("\n"))
    _ = accounts.logs_in(text), accounts.opens_shell(text)


def _pam(data: bytes) -> None:
    pam.admitting({f"/etc/pam.d/{name}": _text(data) for name in ("su", "login", "sshd", "system-auth")})


def _serial(data: bytes) -> None:
    splitter = Splitter()
    for start in range(0, len(data), 7):
        splitter.feed(data[start:start + 7])


def _protobuf(data: bytes) -> None:
    message = protobuf.decode(data)
    for number in range(1, 9):
        _ = protobuf.text(message, number), protobuf.whole(message, number)
    for below in protobuf.messages(message, 1):
        protobuf.pairs(below, 3)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _of_text(*functions: Callable[[str], object]) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        text = _text(data)
        for function in functions:
            try:
                function(text)
            except UNREADABLE:
                continue

    return read


# Sound inputs


def _qcow2_disks() -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        raw = Path(place, "disk.raw")
        raw.write_bytes(b"".join(bytes([number % 256]) * 4096 for number in range(200)).ljust(_MIB, b"\0"))
        return [made.qcow2(raw, *options).read_bytes() for options in
                ((), ("-c",), ("-o", "cluster_size=512"), ("-c", "-o", "cluster_size=4k"))]  # fmt: skip


def _tables() -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        found = []
        for label in ("gpt", "dos"):
            disk = Path(place, label)
            with disk.open("wb") as file:
                file.truncate(_MIB)
            made.run("sfdisk", "--quiet", disk, given=f"label: {label}\nstart=64, size=64\nstart=256, size=64\n")
            found.append(disk.read_bytes())
        return found


def _databases() -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        connection = sqlite3.connect(Path(place, "db"))
        connection.execute("PRAGMA page_size = 512")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
        connection.executemany("INSERT INTO Packages VALUES (?, ?)", [(1, header("glibc")), (2, header("bash", 2))])
        connection.commit()
        whole = Path(place, "db").read_bytes(), Path(place, "db-wal").read_bytes()
        connection.close()
        return [Database.MARK.join(whole), Path(place, "db").read_bytes() + Database.MARK]


def _log() -> list[bytes]:
    blocks, _ = log((1, 7, tag(50, 0) + tag(51, 2 | 8)), (0, 0, b"a"), (0, 0, b"b"), (2, 7, b""),
                    (1, 8, tag(50, 8 | 1)), (0, 0, b"c"), (5, 8, struct.pack(">IQ", 24, 51)), (2, 8, b""))  # fmt: skip
    return [b"".join(blocks[number] for number in sorted(blocks))]


def _write_logs() -> list[bytes]:
    head = struct.pack("<QQQI", 0x6A736677736872, 1, 3, 512).ljust(512, b"\0")
    write, flush, discard = (struct.pack("<QQQQ", *numbers, 0).ljust(512, b"\0")
                             for numbers in ((4, 2, 0), (0, 0, 1), (9, 1, 4)))  # fmt: skip
    return [head + write + b"x" * 1024 + flush + discard]


def _of(*inputs: bytes | str) -> Callable[[], list[bytes]]:
    return lambda: [each.encode() if isinstance(each, str) else each for each in inputs]


_RELEASE = 'ID=x\nNAME="A (b) \\"c\\""\nVERSION_ID=3.4.6\nPRETTY_NAME=\'a\'\nVERSION=\\3 release 3.4\n'
_FSTAB = "UUID=1-2 / ext4 ro 0 1\nLABEL=a\\040b /opt ext4 x 0 2\n[Mount]\nWhat=/dev/disk/by-label/x\\x20y\nWhere=/a\n"
_ENTRY = "title x\nversion 2\nlinux /vmlinuz\ninitrd /i\noptions root=/dev/vda2 ostree=/ostree/boot.1/os/b/0\n"
_CHOICE = "default a*\npreferred b*\nsort-key x\nversion 2~rc1\noptions root=/dev/vda2\nsaved_entry=a\nORDER=A B\n" \
          "A_OK=1\nA_TRY=0\n[slot.rootfs.0]\ndevice=LABEL=root-a\nbootname=A\n[slot.b.0]\nparent=rootfs.0\n"
_ACCOUNTS = "root:x:0:0::/:/bin/sh\nroot:$6$a:1::\nId=getty@a.service\nExecStart={ path=/sbin/agetty ; " \
            "argv[]=/sbin/agetty --autologin root -o -f }\n7 1 /dev/tty1 bash\n"  # fmt: skip
_PAM = "auth [success=1 default=ignore] pam_unix.so\nauth include system-auth\n@include sshd\n" \
       "auth required pam_permit.so\n"  # fmt: skip
_UKI = unified_kernel({".linux": b"x", ".cmdline": b"root=/dev/vda2 quiet", ".initrd": b"x",
                       ".osrel": b'ID=x\nIMAGE_ID="y"\nIMAGE_VERSION=3\n'})  # fmt: skip
_NTP = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\0E\0\0L\0\0@\0@\x11\0\0\x0a\0\0\2\x0a\0\0\1\0{\0{\08\0\0#" + bytes(47)
_ARP = b"\xff" * 6 + b"\2\0\0\0\0\1\x08\x06\0\1\x08\0\6\4\0\1" + bytes(20)
_TCP = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 " \
       "00000000 0 0 1 1 0 100 0 0 10 0\n"  # fmt: skip

_COMMIT = bytes(100) + bytes(range(64)) + bytes(6)
#: A file and a directory, in GVariant's form: members, then where they end.
_DIRTREE = b"f\0" + bytes(range(32)) + b"\2#d\0" + bytes(range(64)) + b"\x22\2D$"

#: Every parser by its name.
TARGETS: Mapping[str, Target] = {
    "qcow2": Target(inputs=_qcow2_disks, read=_qcow2, errors=DISK, of_image=True),
    "vhd": Target(inputs=virtual_disks.vhds, read=virtual_disks.read(DiskFormat.VHD), errors=(*DISK, ImageRefused),
                  of_image=True),
    "vhd-fixed": Target(inputs=virtual_disks.fixed_vhds, read=virtual_disks.read(DiskFormat.VHD_FIXED),
                        errors=(*DISK, ImageRefused), of_image=True),
    "vhdx": Target(inputs=virtual_disks.vhdxs, read=virtual_disks.read(DiskFormat.VHDX), errors=(*DISK, ImageRefused),
                   of_image=True),
    "vmdk": Target(inputs=virtual_disks.vmdks, read=virtual_disks.read(DiskFormat.VMDK), errors=(*DISK, ImageRefused),
                   of_image=True),
    "partitions": Target(inputs=_tables, read=_partitions, errors=DISK, of_image=True),
    "ext4": Target(inputs=file_systems.ext4s, read=file_systems.read_ext4, errors=DISK, of_image=True),
    "squashfs": Target(inputs=file_systems.squashes, read=file_systems.read_any, errors=DISK, of_image=True),
    "erofs": Target(inputs=file_systems.erofs, read=file_systems.read_any, errors=DISK, of_image=True),
    "xfs": Target(inputs=file_systems.xfs, read=file_systems.read_any, errors=DISK, of_image=True),
    "btrfs": Target(inputs=file_systems.btrfs, read=file_systems.read_any, errors=DISK, of_image=True),
    "fat": Target(inputs=file_systems.fats, read=file_systems.read_fat, errors=DISK, of_image=True),
    "journal": Target(inputs=_log, read=_journal, errors=DISK, of_image=True),
    "mounts": Target(inputs=_of(_FSTAB), read=_mounts, errors=(), of_image=True),
    "release": Target(inputs=_of(_RELEASE), read=_release, errors=(), of_image=True),
    "boot-entry": Target(inputs=_of(_ENTRY), of_image=True, errors=(),
                         read=lambda data: [boot_entries.first([boot_entries.parse_entry("a", _text(data))]),
                                            initramfs.parse_entry("a", _text(data))]),
    "unified-kernel": Target(inputs=_of(_UKI), read=_unified, errors=(), of_image=True),
    "boot-choice": Target(inputs=_of(_CHOICE), read=_choice, errors=(), of_image=True),
    "header": Target(inputs=lambda: [*_qcow2_disks(), *_tables(), *virtual_disks.vhds(), *virtual_disks.fixed_vhds(),
                                     *virtual_disks.vmdks()], errors=(ImageRefused,), of_image=True,
                     read=lambda data: image.contents.function(Bytes(data), "disk.raw")),
    "rpm-sqlite": Target(inputs=_databases, read=_sqlite, errors=DISK, of_image=True),
    "rpm-log": Target(inputs=_databases, errors=(), of_image=True,
                      read=lambda data: sqlite_log.applied(*data.partition(Database.MARK)[::2])),
    "rpm-berkeley": Target(inputs=lambda: [berkeley([header("glibc"), header("bash", 2)])], errors=DISK, of_image=True,
                           read=lambda data: [rpm.parse_header(blob) for blob in rpm.berkeley_values(data)]),
    "rpm-ndb": Target(inputs=lambda: [ndb([header("glibc"), header("bash", 2)])], errors=DISK, of_image=True,
                      read=lambda data: [rpm.parse_header(blob) for blob in rpm.ndb_values(data)]),
    "rpm-header": Target(inputs=lambda: [header("glibc", 3)], read=rpm.parse_header, errors=DISK, of_image=True),
    "dpkg": Target(inputs=_of("Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nVersion: 2\n"),
                   read=lambda data: packages.parse_dpkg_status(_text(data)), errors=UNREADABLE, of_image=True),
    "accounts": Target(inputs=_of(_ACCOUNTS), read=_accounts, errors=UNREADABLE, of_image=True),
    "pam": Target(inputs=_of(_PAM), read=_pam, errors=(), of_image=True),
    "udev": Target(inputs=_of('ACTION=="add", \\\n RUN+="x"\n# a\n'), errors=(), of_image=True,
                   read=lambda data: system.parse_udev_rules(_text(data))),
    "ostree-directory": Target(inputs=_of(_DIRTREE), read=ostree_objects.listing, errors=DISK, of_image=True),
    "ostree-commit": Target(inputs=_of(_COMMIT), read=ostree_objects.commit_root, errors=DISK, of_image=True),
    "write-log": Target(inputs=_write_logs, errors=(TestbedError,), of_image=True,
                        read=lambda data: WriteLog(Bytes(data), disk_size=_MIB)),
    "port-frames": Target(inputs=_of("channel n0 hello 1-2-3", "channel n0 result 0 12 0"), errors=(ChannelError,),
                          read=lambda data: port_frames.parse_header(data, "n0")),
    "serial-frames": Target(inputs=_of(b"text\x1b]5149;run;n0;0;1\x07\x1b\\more", b"a\n<6>b\x1b_lifsea;x\x1b\\c"),
                            read=_serial, errors=()),
    "time-frames": Target(inputs=_of(_NTP, _ARP), read=lambda data: time_frames.answer(data, 1.7e9), errors=()),
    "token-lifetime": Target(inputs=_of("60", "21600"), read=lambda data: time_to_live(_text(data)), errors=()),
    "protobuf": Target(inputs=lambda: [protobuf.encode({
        1: protobuf.encode({1: "a", 2: 7, 3: protobuf.encode({1: "k", 2: "v"})}), 2: "b", 8: 1})],
                       read=_protobuf, errors=UNREADABLE),
    "printable": Target(inputs=_of("a\x1b[31mb\x1b]0;x\x07\x9b6n\u202e##vso[x]\r\n"), read=printable, errors=()),
    "answers": Target(inputs=_of(_TCP, "MemTotal: 1 kB\nprocessor : 0\nmodel name : x\n", "{\"deployments\": [{}]}"),
                      errors=(), read=_of_text(
        network.parse_sockets, network.parse_namespaces, lambda text: network.parse_open_ports(text, text, text),
        hardware.parse_processor, hardware.parse_topology, hardware.parse_memory, hardware.parse_console,
        lambda text: hardware.parse_pci(text.split("\n")), lambda text: hardware.parse_cards(text.split("\n")),
        ostree.parse_status, ostree.parse_commit, ostree.parse_changes, pending.parse_pending,
        lambda text: pending.parse_sleeps(text.split("\n")), kernel_log.parse_records, disks.parse_sizes,
        lambda text: kernel_log.parse_dmesg(text.split("\n")), lambda text: disks.parse_writable(text, ["/"]),
        changes.parse, system.parse_tracking, lambda text: system.parse_digests(text.split("\n")),
        initramfs.parse_unified)),
}  # fmt: skip
