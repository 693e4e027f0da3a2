"""Disks of one boot sector that prints a text on ttyS0 and halts: the smallest images that boot."""

from __future__ import annotations

from pathlib import Path

#: cli; ds = 0; si = text; each byte to port 0x3f8; at a zero byte halt for ever.
_CODE = bytes.fromhex("fa 31c0 8ed8 be167c ac 84c0 7406 baf803 ee ebf5 f4 ebfd")


#: The same, with half a million turns of an empty loop before each byte.
_SLOW_CODE = bytes.fromhex("fa 31c0 8ed8 be1f7c ac 84c0 7410 bb0800 31c9 e2fe 4b 75f9 baf803 ee ebeb f4 ebfd")

#: And with a PAUSE in that loop.
_WAITING_CODE = bytes.fromhex("fa 31c0 8ed8 be217c ac 84c0 7412 bb0800 31c9 f390 e2fc 4b 75f7 baf803 ee ebe9 f4 ebfd")

#: Prints the text, then for each byte that is received the next letter, from `a` on, counted in memory at 0x500; an `r`
#: resets the machine (keyboard controller, 0xfe).
_COUNTING_CODE = bytes.fromhex(
    "fa 31c0 8ed8 c606000561 be397c ac 84c0 7406 baf803 ee ebf5 bafd03 ec a801 74f8 baf803 ec 3c72 740a a00005 ee"
    "fe060005 ebe6 b0fe e664 f4 ebfd"
)


#: Where the identifier of the disk and its partition table begin.
_BEFORE_TABLE = 440


def boot_sector(text: str, code: bytes = _CODE) -> bytes:
    """Returns a boot sector that prints the text (at most 470 characters)."""
    sector = code + text.encode("ascii") + b"\0"
    assert len(sector) <= 510
    return sector.ljust(510, b"\0") + b"\x55\xaa"


def raw_image(path: Path, text: str = "") -> Path:
    """Writes a raw disk of 1 MiB with that boot sector."""
    path.write_bytes(boot_sector(text).ljust(1 << 20, b"\0"))
    return path


def make_bootable(disk: Path, text: str) -> Path:
    """Writes the code and the text (short) before the partition table of a raw disk with an MBR."""
    with disk.open("r+b") as file:
        file.write(boot_sector(text)[:_BEFORE_TABLE])
    return disk


def slow_image(path: Path, text: str, *, waits: bool = False) -> Path:
    """Writes a raw disk whose boot sector delays each character by a loop, with PAUSE in it if `waits`."""
    path.write_bytes(boot_sector(text, _WAITING_CODE if waits else _SLOW_CODE).ljust(1 << 20, b"\0"))
    return path


def counting_image(path: Path, text: str) -> Path:
    """Writes a raw disk whose boot sector prints the text, counts what it receives, and resets on request."""
    path.write_bytes(boot_sector(text, _COUNTING_CODE).ljust(1 << 20, b"\0"))
    return path


#: ds = 0; si = text; each byte to the screen (int 10h, function 0eh); at a zero byte halts for ever.
_SCREEN_CODE = bytes.fromhex("31c0 8ed8 be167c ac 84c0 7406 b40e cd10 ebf5 fa f4 ebfd")


def screen_image(path: Path, text: str) -> Path:
    """Writes a raw disk whose boot sector prints the text on the screen alone, and halts."""
    path.write_bytes(boot_sector(text, _SCREEN_CODE).ljust(1 << 20, b"\0"))
    return path


#: ds = 0; for ever: writes 127 sectors to the boot disk (int 13h, function 43h), by the packet behind the code, and
#: adds 127 to the number of the first one in that packet.
_FILLING_CODE = bytes.fromhex("31c0 8ed8 be167c b80043 cd13 6683061e7c7f ebf0 9090 10007f00 00000010 0100000000000000")


def filling_image(path: Path) -> Path:
    """Writes a raw disk whose boot sector writes to the disk without end."""
    path.write_bytes(boot_sector("", _FILLING_CODE).ljust(1 << 20, b"\0"))
    return path
