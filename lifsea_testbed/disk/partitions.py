"""The partitions of a disk: GPT (UEFI specification 2.10, 5.3), or the four of an MBR."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from lifsea_testbed.disk.image import SECTOR
from lifsea_testbed.disk.image_formats import has_boot_sector
from lifsea_testbed.disk.source import ByteSource, Window
from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason

#: "Root Partition" for x86-64 (Discoverable Partitions Specification).
ROOT_X86_64 = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
#: "EFI System Partition" (UEFI specification 2.10, 5.3.3), and GRUB's BIOS boot partition, which holds a program.
ESP, BIOS_BOOT = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "21686148-6449-6e6f-744e-656564454649"
#: "Extended Boot Loader Partition" (Discoverable Partitions Specification).
XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
_LARGEST_TABLE, _MOST = 1 << 20, 128
_EXTENDED = {0x05, 0x0F, 0x85, 0xEE}
#: The type of an ESP in an MBR (UEFI specification 2.10, 5.2.2).
_MBR_ESP = 0xEF


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition: its number from 1, its first sector, its content, its type GUID, its own GUID, name, attributes.

    The GUIDs are in lower case; they and the name are empty in an MBR, but for the type of an ESP.
    """

    number: int
    first: int
    content: ByteSource
    kind: str = ""
    identifier: str = ""
    label: str = ""
    attributes: int = 0


def partitions(disk: ByteSource) -> list[Partition]:
    """Returns the partitions in the order of their numbers, without the logical ones of an MBR.

    Raises:
        DiskDamaged: the table is inconsistent, or refers to sectors behind the end of the disk.
    """
    if disk.size < 2 * SECTOR:
        return []
    head = disk.read_at(0, 2 * SECTOR)
    if head[SECTOR:SECTOR + 8] == b"EFI PART":
        return _gpt(disk, head[SECTOR:])
    return _mbr(disk, head) if has_boot_sector(head) else []


def _gpt(disk: ByteSource, header: bytes) -> list[Partition]:
    first, count, size = struct.unpack_from("<QII", header, 72)
    if size < 128 or count * size > _LARGEST_TABLE:
        raise DiskDamaged(f"a partition table of {count} entries of {size} bytes", hint="sgdisk --verify")
    table = disk.read_at(first * SECTOR, count * size)
    rows = ((number, table[number * size:(number + 1) * size]) for number in range(count))
    used = [(number, row) for number, row in rows if any(row[:16])]
    if len(used) > _MOST:
        raise NotJudged(f"the disk has {len(used)} partitions; more than {_MOST} are not read", Reason.IMAGE)
    return [_gpt_entry(disk, number + 1, row) for number, row in used]


def _gpt_entry(disk: ByteSource, number: int, row: bytes) -> Partition:
    first, last, attributes = struct.unpack_from("<QQQ", row, 32)
    kind, identifier = (str(uuid.UUID(bytes_le=row[start:start + 16])) for start in (0, 16))
    label = row[56:128].decode("utf-16-le", "replace").partition("\0")[0]
    return Partition(number=number, first=first, content=_window(disk, first, last - first + 1, number), kind=kind,
                     identifier=identifier, label=label, attributes=attributes)  # fmt: skip


def _mbr(disk: ByteSource, head: bytes) -> list[Partition]:
    rows = ((number, struct.unpack_from("<4xB3xII", head, 446 + 16 * number)) for number in range(4))
    return [Partition(number=number + 1, first=first, content=_window(disk, first, sectors, number + 1),
                      kind=ESP if kind == _MBR_ESP else "")
            for number, (kind, first, sectors) in rows if sectors and kind and kind not in _EXTENDED]  # fmt: skip


def _window(disk: ByteSource, first: int, sectors: int, number: int) -> Window:
    if sectors <= 0 or (first + sectors) * SECTOR > disk.size:
        raise DiskDamaged(f"partition {number} ends behind the disk, or before it starts", hint="sgdisk --verify")
    return Window(disk, first * SECTOR, sectors * SECTOR)
