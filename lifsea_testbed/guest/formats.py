"""What a file is by its content: a program that the kernel or a loader runs, or something that holds programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

#: Where the signatures stand: offset and length, in bytes.
PIECES = ((0, 8), (257, 5), (1080, 2))
#: Prints those bytes of $file in hexadecimal digits, each followed by a blank.
READ_PIECES = "\n".join(f"printf '%s ' \"$(od -An -v -tx1 -j{start} -N{size} \"$file\" | tr -d ' \\n')\""
                        for start, size in PIECES)  # fmt: skip
#: The mode bits with which a file may be executed.
EXECUTABLE = 0o111
_ELF, _SCRIPT = b"\x7fELF", b"#!"
#: zip, ar, cpio (newc, crc, odc) and squashfs begin with these; tar and ext4 have their signatures further inside.
_ARCHIVES = (b"PK\x03\x04", b"!<arch>", b"070701", b"070702", b"070707", b"hsqs")
_TAR, _EXT4 = b"ustar", b"\x53\xef"


@dataclass(frozen=True, kw_only=True)
class FileHead:
    """A file's mode (stat(2)) and the bytes at the places of PIECES; short where the file ends earlier."""

    mode: int
    pieces: tuple[bytes, ...]

    @classmethod
    def of(cls, mode: int, content: bytes) -> Self:
        """Returns the head of a file with that content."""
        return cls(mode=mode, pieces=tuple(content[start:start + size] for start, size in PIECES))

    @classmethod
    def parse(cls, mode: str, pieces: Sequence[str]) -> Self:
        """Reads what the guest printed: the mode in octal digits, the pieces in hexadecimal ones."""
        return cls(mode=octal(mode), pieces=tuple(map(_bytes, pieces)))


def is_program(head: FileHead) -> bool:
    """Returns whether a file can be run: by its mode, or by a loader or interpreter whatever its mode."""
    return bool(head.mode & EXECUTABLE) or head.pieces[0].startswith((_ELF, _SCRIPT))


def holds_programs(head: FileHead) -> bool:
    """Returns whether a file is a program or library, or an uncompressed archive or disk image that may hold some."""
    return is_program(head) or head.pieces[0].startswith(_ARCHIVES) or head.pieces[1] == _TAR or head.pieces[2] == _EXT4


def octal(text: str) -> int:
    """Returns a mode in octal digits as a number; 0 for anything else."""
    return int(text, 8) if text and set(text) <= set("01234567") else 0


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
