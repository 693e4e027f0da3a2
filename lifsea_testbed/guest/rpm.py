"""rpm's database, read without rpm: rpmdb.sqlite (rpm 4.16 and later), ndb's Packages.db, Berkeley DB's Packages."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from lifsea_testbed.disk.filesystem import Tree
from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason
from lifsea_testbed.guest import sqlite_log
from lifsea_testbed.guest.packages import Package, is_package

_PLACES = ("/usr/lib/sysimage/rpm", "/usr/share/rpm", "/var/lib/rpm")
# Tags of a header (rpm docs/manual/tags.md).
_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_INTEGER, _STRING = 4, 6
#: How many steps of SQLite's machine a sound database may take: some 100 a package.
_STEPS = 10_000_000
#: The memory of SQLite beyond that of the database itself (bytes): a cache of pages, a value.
_SQLITE_HEAP = 64 << 20
#: What a statement may read from; SELECT itself has no name.
_READ_FROM = ("", "packages", "sqlite_master", "sqlite_schema")
#: The largest database, and log of one, that is read (bytes): a full distribution's has some 100 MB.
_LARGEST, _LARGEST_LOG = 128 << 20, 32 << 20
# Berkeley DB's pages (db 5.3, src/dbinc/db_page.h).
_HASH_MAGIC, _PAGE_HEADER = 0x061561, 26
_HASH_PAGES, _OVERFLOW_PAGE, _OFF_PAGE = (2, 13), 7, 3
# ndb's slots and blobs (rpm 4.18, lib/backend/ndb/rpmpkg.c); all numbers are little-endian.
_SLOT_PAGE, _SLOT, _BLOB_HEAD, _BLOB_TAIL = 4096, 16, 16, 12


def packages(tree: Tree) -> list[Package]:
    """Returns the packages of the first rpm database that is there, sorted.

    Raises:
        DiskDamaged: the database contradicts itself.
        NotJudged: there is none, or it is of a kind that is not read here.
    """
    for place in map(PurePosixPath, _PLACES):
        if database := tree.read(place / "rpmdb.sqlite", _LARGEST):
            return _sorted(_from_sqlite(database, tree.read(place / "rpmdb.sqlite-wal", _LARGEST_LOG) or b""))
        if database := tree.read(place / "Packages", _LARGEST):
            return _sorted(berkeley_values(database))
        if database := tree.read(place / "Packages.db", _LARGEST):
            return _sorted(ndb_values(database))
    raise NotJudged("the image carries neither a dpkg status file nor an rpm database", Reason.IMAGE)


def parse_header(blob: bytes) -> Package | None:
    """Reads the header of an installed package (rpm docs/manual/format_header.md), or nothing if it has no name.

    Raises:
        DiskDamaged: it is cut short.
    """
    try:
        count, _ = struct.unpack_from(">II", blob)
        index = (struct.unpack_from(">4I", blob, 8 + 16 * number) for number in range(min(count, len(blob) // 16)))
        store = 8 + 16 * count
        fields = {tag: _value(blob, kind, store + place) for tag, kind, place, _ in index
                  if tag in (_NAME, _VERSION, _RELEASE, _EPOCH)}  # fmt: skip
    except (struct.error, ValueError):
        raise DiskDamaged("a package in the rpm database is cut short", hint="rpm --verifydb") from None
    if _NAME not in fields:
        return None
    epoch = f"{fields[_EPOCH]}:" if _EPOCH in fields else ""
    return Package(name=fields[_NAME], version=f"{epoch}{fields.get(_VERSION, '')}-{fields.get(_RELEASE, '')}")


def berkeley_values(database: bytes) -> Iterator[bytes]:
    """Yields the values of a Berkeley DB hash that are larger than a page, as every package's header is.

    Raises:
        DiskDamaged: its pages contradict themselves.
        NotJudged: it is a database of another kind, or of the other byte order.
    """
    magic, _, size = struct.unpack_from("<III", database, 12) if len(database) >= 512 else (0, 0, 0)
    if magic != _HASH_MAGIC:
        raise NotJudged("the rpm database is no hash of Berkeley DB of this byte order", Reason.IMAGE)
    if size not in (1 << bits for bits in range(9, 17)):
        raise _damaged(f"has pages of {size} bytes")
    left = len(database)
    for start in range(size, len(database) - size + 1, size):
        page = database[start:start + size]
        for place in _values(page) if page[25] in _HASH_PAGES else ():
            number, length = struct.unpack_from("<II", page, place + 4)
            if (left := left - length) < 0:
                raise _damaged("has more in it than its pages hold")
            yield _overflowing(database, size, number, length)


def ndb_values(database: bytes) -> Iterator[bytes]:
    """Yields the values of an ndb database: each package's header.

    Raises:
        DiskDamaged: its slots and blobs contradict themselves.
        NotJudged: it is a database of another kind, or of a later version.
    """
    magic, version, _, pages = struct.unpack_from("<4s3I", database) if len(database) >= 2 * _SLOT else (b"", 0, 0, 0)
    if magic != b"RpmP" or version != 0:
        raise NotJudged("the rpm database is no ndb of this version", Reason.IMAGE)
    if pages * _SLOT_PAGE > len(database):
        raise _damaged("is cut short")
    left = len(database)
    for place in range(2 * _SLOT, pages * _SLOT_PAGE, _SLOT):
        mark, number, block, count = struct.unpack_from("<4s3I", database, place)
        if mark != b"Slot":
            raise _damaged("has a slot that is none")
        if block:
            if (left := left - count * _SLOT) < 0:
                raise _damaged("has more in it than its blobs hold")
            yield _blob(database[block * _SLOT:(block + count) * _SLOT], number, count * _SLOT)


def _blob(blob: bytes, number: int, size: int) -> bytes:
    if len(blob) < size or size < _BLOB_HEAD + _BLOB_TAIL:
        raise _damaged("has a blob that is cut short")
    mark, owner, _, length = struct.unpack_from("<4s3I", blob)
    checksum, again, end = struct.unpack_from("<2I4s", blob, size - _BLOB_TAIL)
    if (mark, owner, end) != (b"BlbS", number, b"BlbE") or not length == again <= size - _BLOB_HEAD - _BLOB_TAIL:
        raise _damaged("has a blob that is another's")
    if checksum != zlib.adler32(blob[:-_BLOB_TAIL]):
        raise _damaged("has a blob whose sum is wrong")
    return blob[_BLOB_HEAD:_BLOB_HEAD + length]


def _values(page: bytes) -> list[int]:
    """The offsets on a page of the values that lie on other pages; keys and values alternate."""
    count = struct.unpack_from("<H", page, 20)[0]
    if _PAGE_HEADER + 2 * count > len(page):
        raise _damaged("has a page with too many entries")
    places = struct.unpack_from(f"<{count}H", page, _PAGE_HEADER)[1::2]
    elsewhere = [place for place in places if page[place:place + 1] == bytes([_OFF_PAGE])]
    if any(place + 12 > len(page) for place in elsewhere):
        raise _damaged("has an entry behind its page")
    return elsewhere


def _overflowing(database: bytes, size: int, number: int, length: int) -> bytes:
    value = bytearray()
    while len(value) < length:
        there = database[number * size:(number + 1) * size]
        if number == 0 or len(there) < size or there[25] != _OVERFLOW_PAGE:
            raise _damaged("has a chain of pages that breaks off")
        used = struct.unpack_from("<H", there, 22)[0]
        if not 0 < used <= size - _PAGE_HEADER:
            raise _damaged("has an empty page in a chain")
        value += there[_PAGE_HEADER:_PAGE_HEADER + used]
        number = struct.unpack_from("<I", there, 16)[0]
    return bytes(value[:length])


def _from_sqlite(database: bytes, log: bytes) -> Iterator[bytes]:
    """Yields the packages' headers."""
    whole = sqlite_log.applied(database, log)
    connection = sqlite3.connect(":memory:", cached_statements=0)
    try:
        connection.deserialize(whole)
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA hard_heap_limit = {len(whole) + _SQLITE_HEAP}")
        connection.set_progress_handler(lambda: 1, _STEPS)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, len(whole) + 1)
        connection.text_factory = bytes
        connection.set_authorizer(_authorise)
        yield from _blobs(connection, len(whole))
    except (sqlite3.Error, UnicodeError, OverflowError, MemoryError) as error:
        # A name in a damaged schema that is not UTF-8 makes sqlite3 fail to word its own error.
        raise _damaged(f"cannot be read: {error!r}") from None
    finally:
        connection.close()


def _authorise(action: int, name: str | None, *_: object) -> int:
    """Lets a statement read columns and nothing else: no view has functions, or recursion, of its own."""
    allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ) and (name or "").lower() in _READ_FROM
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _blobs(connection: sqlite3.Connection, left: int) -> Iterator[bytes]:
    """Yields the values of the column, as many bytes as the database can hold."""
    kinds = [kind for (kind,) in connection.execute("SELECT type FROM sqlite_master WHERE name = 'Packages'")]
    if kinds != [b"table"]:
        raise _damaged("has no table of packages")
    for (blob,) in connection.execute("SELECT blob FROM Packages"):
        if isinstance(blob, bytes):
            if (left := left - len(blob)) < 0:
                raise _damaged("has more in it than its pages hold")
            yield blob


def _sorted(headers: Iterator[bytes]) -> list[Package]:
    return sorted(package for header in headers if (package := parse_header(header)) and is_package(package.name))


def _value(blob: bytes, kind: int, place: int) -> str:
    if kind == _INTEGER:
        return str(struct.unpack_from(">I", blob, place)[0])
    if kind != _STRING:
        raise ValueError(kind)
    return blob[place:blob.index(b"\0", place)].decode("utf-8", "replace")


def _damaged(what: str) -> DiskDamaged:
    return DiskDamaged(f"the rpm database {what}", hint="rpm --verifydb, in a system that boots")
