"""An archive that a guest made, unpacked on the host within bounds: nothing lands outside or grows without end."""

from __future__ import annotations

import errno
import struct
import tarfile
from pathlib import Path
from typing import IO, Self

from lifsea_testbed.errors import HostError

#: The bytes of all files of an archive, holes of sparse ones included; its entries; the directories above one of them.
LARGEST, MOST, DEEPEST = 4 << 30, 200_000, 64
#: The longest path, and the longest name in it (bytes: PATH_MAX and NAME_MAX of Linux, limits.h).
_LONGEST_PATH, _LONGEST_NAME = 4096, 255
#: The largest extended header (bytes), which is read into memory as a whole; it holds a path and attributes.
_LARGEST_HEADER = 1 << 20
_EXTENDED = frozenset({
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
})  # fmt: skip
#: What the host may refuse whatever the archive holds.
_OF_THE_HOST = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE})
#: What tarfile raises on an archive that is damaged, or made to mislead.
_UNREADABLE = (tarfile.TarError, EOFError, ValueError, LookupError, ArithmeticError, RecursionError, struct.error)


class UnreadableArchive(Exception):
    """An archive is damaged, exceeds a bound, or holds device nodes or paths out of its directory."""


class _Header(tarfile.TarInfo):
    """The header of an entry; an extended one is not read into memory if it is too large."""

    def _proc_member(self, archive: tarfile.TarFile) -> Self:
        if self.type in _EXTENDED and self.size > _LARGEST_HEADER:
            raise UnreadableArchive(f"a header of {self.size} bytes: at most {_LARGEST_HEADER >> 20} MiB")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


class _Bounds:
    """The filter of one archive: that of Python for data, within bounds over all entries."""

    def __init__(self) -> None:
        self._left, self._entries = LARGEST, 0

    def __call__(self, entry: tarfile.TarInfo, place: str) -> tarfile.TarInfo:
        self._left -= entry.size if entry.isreg() else 0
        self._entries += 1
        parts = entry.name.split("/")
        for exceeded, bound in (
            (self._left < 0, f"its files have {LARGEST >> 30} GiB together"),
            (self._entries > MOST, f"it has {MOST} entries"), (len(parts) > DEEPEST, f"paths have {DEEPEST} parts"),
            (len(_bytes(entry.name)) > _LONGEST_PATH, f"paths have {_LONGEST_PATH} bytes"),
            (max(len(_bytes(part)) for part in parts) > _LONGEST_NAME, f"names have {_LONGEST_NAME} bytes"),
        ):  # fmt: skip
            if exceeded:
                raise UnreadableArchive(f"it is larger than an archive may be: at most {bound}")
        return tarfile.data_filter(entry, place)


def unpack(file: IO[bytes], into: Path) -> None:
    """Unpacks an archive (tar) of a guest into a directory of the host: at most 4 GiB, 200 000 entries, 64 levels.

    Raises:
        UnreadableArchive: the archive is damaged, exceeds a bound, or has entries that are no files of a directory.
        HostError: the host cannot write the files.
    """
    try:
        with tarfile.open(fileobj=file, tarinfo=_Header) as archive:
            archive.extractall(into, filter=_Bounds())
    except OSError as error:
        if error.errno in _OF_THE_HOST:
            raise HostError(f"files of the guest cannot be written to {into}: {error.strerror}",
                            hint="free disk space, or choose another directory") from error
        raise UnreadableArchive(f"{error.strerror or error}"[:200]) from error
    except _UNREADABLE as error:
        raise UnreadableArchive(f"{type(error).__name__}: {error}"[:200]) from error


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
