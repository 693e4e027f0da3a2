"""rpm's databases are read without rpm."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from lifsea_testbed.errors import DiskDamaged, NotJudged
from lifsea_testbed.guest import rpm


class Files:
    """A tree of nothing but these files."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def read(self, path: PurePosixPath, limit: int) -> bytes | None:
        return self._files.get(str(path))

    def find(self, path: PurePosixPath) -> object:
        return self._files.get(str(path))


def header(name: str, epoch: int | None = None) -> bytes:
    store = b"".join(text.encode() + b"\0" for text in (name, "1.2", "3.al8")).ljust(64, b"\0")
    places = [(1000, 6, 0), (1001, 6, len(name) + 1), (1002, 6, len(name) + 5), *([(1003, 4, 64)] if epoch else [])]
    index = b"".join(struct.pack(">4I", tag, kind, place, 1) for tag, kind, place in places)
    return struct.pack(">II", len(places), 68) + index + store + struct.pack(">I", epoch or 0) + bytes(800)


def berkeley(values: list[bytes]) -> bytes:
    """A hash of Berkeley DB with pages of 512 bytes: one page of entries, and a chain of pages for each value."""
    pages = [struct.pack("<8xIIII", 0, 0x061561, 9, 512).ljust(512, b"\0"), b""]
    entries = []
    for value in values:
        entries.append(struct.pack("<B3xII", 3, len(pages), len(value)))
        parts = [value[start:start + 486] for start in range(0, len(value), 486)]
        for left, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
            following = len(pages) + 1 if left else 0
            pages.append(struct.pack("<16xIHHBB", following, 1, len(part), 0, 7) + part.ljust(486, b"\0"))
    places = [place for number in range(len(values)) for place in (500 - 24 * number, 488 - 24 * number)]
    page = bytearray(struct.pack("<20xHHBB", len(places), 0, 0, 13).ljust(512, b"\0"))
    struct.pack_into(f"<{len(places)}H", page, 26, *places)
    for place, entry in zip(places[1::2], entries, strict=True):
        page[place:place + 12] = entry
    pages[1] = bytes(page)
    return b"".join(pages)


def ndb(values: list[bytes]) -> bytes:
    """An ndb database: one page of slots, and a blob for each value."""
    slots, blobs = bytearray(b"Slot".ljust(16, b"\0") * 256), b""
    for number, value in enumerate(values, start=1):
        length = -(-(len(value) + 28) // 16) * 16
        struct.pack_into("<4s3I", slots, 16 + 16 * number, b"Slot", number, (4096 + len(blobs)) // 16, length // 16)
        blob = (struct.pack("<4s3I", b"BlbS", number, 1, len(value)) + value).ljust(length - 12, b"\0")
        blobs += blob + struct.pack("<2I4s", zlib.adler32(blob), len(value), b"BlbE")
    struct.pack_into("<4s7I", slots, 0, b"RpmP", 0, 1, 1, len(values) + 1, 0, 0, 0)
    return bytes(slots) + blobs


def packages_in(files: Mapping[str, bytes]) -> list[tuple[str, str]]:
    tree: Any = Files(files)
    return [(package.name, package.version) for package in rpm.packages(tree)]


def test_berkeley_db_is_read() -> None:
    database = berkeley([header("glibc"), header("bash", epoch=2)])
    assert packages_in({"/var/lib/rpm/Packages": database}) == [("bash", "2:1.2-3.al8"), ("glibc", "1.2-3.al8")]
    with pytest.raises(DiskDamaged):
        packages_in({"/var/lib/rpm/Packages": database[:1024]})


def test_sqlite_is_read(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    connection.execute("INSERT INTO Packages VALUES (1, ?)", [header("glibc")])
    connection.commit()
    database, written = (tmp_path / "db").read_bytes(), (tmp_path / "db-wal").read_bytes()
    connection.close()
    place = "/usr/lib/sysimage/rpm/rpmdb.sqlite"
    assert packages_in({place: database, f"{place}-wal": written}) == [("glibc", "1.2-3.al8")]
    with pytest.raises(DiskDamaged):
        packages_in({place: b"SQLite format 3\0" + bytes(84)})


def sqlite(path: Path, *statements: str) -> bytes:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path.read_bytes()


@pytest.mark.parametrize("statement", [
    "CREATE VIEW Packages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS blob FROM n",
    "CREATE VIEW Packages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) "
    "SELECT zeroblob(900000000) AS blob FROM n",
    "CREATE VIRTUAL TABLE Packages USING fts5(blob)", "CREATE TABLE Others (blob BLOB)",
], ids=["endless", "large", "virtual", "another"])  # fmt: skip
def test_packages_that_are_no_table_are_not_read(tmp_path: Path, statement: str) -> None:
    with pytest.raises(DiskDamaged, match=r"no table of packages|cannot be read"):
        packages_in({"/var/lib/rpm/rpmdb.sqlite": sqlite(tmp_path / "db", statement)})


def test_a_column_that_is_computed_has_no_function(tmp_path: Path) -> None:
    database = sqlite(tmp_path / "db", "CREATE TABLE Packages (n INT, blob BLOB AS (zeroblob(n)))",
                      "INSERT INTO Packages VALUES (900000000)")  # fmt: skip
    with pytest.raises(DiskDamaged, match="cannot be read"):
        packages_in({"/var/lib/rpm/rpmdb.sqlite": database})


def test_a_long_query_of_a_database_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpm, "_STEPS", 1000)
    rows = "INSERT INTO Packages SELECT NULL FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n " \
           "LIMIT 5000) SELECT i FROM n)"  # fmt: skip
    with pytest.raises(DiskDamaged, match="interrupted"):
        packages_in({"/var/lib/rpm/rpmdb.sqlite": sqlite(tmp_path / "db", "CREATE TABLE Packages (blob BLOB)", rows)})


def test_only_whole_transactions_of_a_log_count(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    connection.execute("INSERT INTO Packages VALUES (1, ?)", [header("glibc")])
    connection.commit()
    one = len((tmp_path / "db-wal").read_bytes())
    connection.execute("INSERT INTO Packages VALUES (2, ?)", [header("bash") + bytes(9000)])
    connection.commit()
    database, log = (tmp_path / "db").read_bytes(), (tmp_path / "db-wal").read_bytes()
    connection.close()
    place = "/usr/lib/sysimage/rpm/rpmdb.sqlite"
    old, new = [("glibc", "1.2-3.al8")], [("bash", "1.2-3.al8"), ("glibc", "1.2-3.al8")]
    assert packages_in({place: database, f"{place}-wal": log}) == new
    assert packages_in({place: database, f"{place}-wal": log[:-1]}) == old
    torn = log[:one + 100] + b"\xff" + log[one + 101:]
    assert packages_in({place: database, f"{place}-wal": torn}) == old


def test_a_database_whose_bytes_were_changed_is_damaged_or_read(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    connection.execute("CREATE TABLE Names (key TEXT, hnum INTEGER)")
    connection.execute("INSERT INTO Packages VALUES (1, ?)", [header("glibc")])
    connection.commit()
    connection.close()
    sound, dice = (tmp_path / "db").read_bytes(), random.Random(7)
    used = [place for place in range(len(sound)) if sound[place]]
    for _ in range(1500):
        place, odd = dice.choice(used), bytearray(sound)
        odd[place:place + 2] = dice.randbytes(2)
        with contextlib.suppress(DiskDamaged):
            packages_in({"/var/lib/rpm/rpmdb.sqlite": bytes(odd)})


def test_ndb_is_read() -> None:
    database, place = ndb([header("glibc"), header("bash", epoch=2)]), "/usr/lib/sysimage/rpm/Packages.db"
    assert packages_in({place: database}) == [("bash", "2:1.2-3.al8"), ("glibc", "1.2-3.al8")]
    for damaged in (database[:4096], database[:-16], database.replace(b"Slot", b"Slut", 1),
                    database.replace(b"BlbE", b"BlbF", 1), database.replace(b"bash", b"dash")):  # fmt: skip
        with pytest.raises(DiskDamaged):
            packages_in({place: damaged})


def test_a_database_of_another_kind_is_not_judged() -> None:
    with pytest.raises(NotJudged, match="no ndb"):
        packages_in({"/usr/lib/sysimage/rpm/Packages.db": b"RpmQ" + bytes(4092)})
    with pytest.raises(NotJudged, match="neither"):
        packages_in({})


def test_public_keys_are_no_packages() -> None:
    """rpm keeps each key that was imported as an entry of its own."""
    database = berkeley([header("bash"), header("gpg-pubkey"), header("gpg-pubkey")])
    files: Any = Files({"/var/lib/rpm/Packages": database})
    assert [package.name for package in rpm.packages(files)] == ["bash"]
