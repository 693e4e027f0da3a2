"""Writes a crash state as a disk: small qcow2 files with the clusters that the log changed, above the recording's base.

The format is qcow2 version 3 (QEMU docs/interop/qcow2.txt): header, reference counts, two levels of tables, clusters.
The file names no backing file: QEMU's command line does.
"""

from __future__ import annotations

import struct
import tempfile
import threading
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lifsea_testbed.disk.qcow2_header import MAGIC
from lifsea_testbed.powercut.crash_states import CrashState, CrashStates, prefix
from lifsea_testbed.powercut.disk_contents import CLUSTER, DiskContents

_BITS = CLUSTER.bit_length() - 1
_VERSION, _HEADER_LENGTH = 3, 104
#: Reference counts of 16 bits, and how many there are in a cluster.
_REFCOUNT_ORDER, _COUNTS = 4, CLUSTER // 2
_IN_TABLE = CLUSTER // 8
#: The most milestones of a log, and the least distance between two of them (entries of the log).
_MILESTONES, _BETWEEN = 16, 64
#: "Refcount is exactly one": set in every entry of the two tables.
_COPIED = 1 << 63


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The parts of the file in their order, each in clusters."""

    table_of_counts: int
    counts: int
    first_table: int
    second_tables: int
    data: int

    @property
    def total(self) -> int:
        """The length of the file in clusters."""
        return 1 + self.table_of_counts + self.counts + self.first_table + self.second_tables + self.data


class Milestones:
    """The disk at a few positions of the log, each written once; a state's file holds the writes after its milestone.

    So the cost of a state does not grow with the log. Several threads may write states. The files lie in a directory of
    their own, which is removed with the context.
    """

    def __init__(self, contents: DiskContents, states: CrashStates, directory: Path) -> None:
        self._contents, self._states = contents, states
        self._step = max(_BETWEEN, -(-contents.count // _MILESTONES))
        self._scratch = tempfile.TemporaryDirectory(prefix="milestones-", dir=directory)
        self._made: dict[int, Path] = {}
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        """Returns the milestones themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes them."""
        self._scratch.cleanup()

    def write(self, path: Path, state: CrashState) -> tuple[Path, ...]:
        """Writes a state's clusters above its milestone; returns the layers of its disk, the lowest first."""
        place = self._states.epoch(state).first // self._step * self._step
        with self._writing:
            write(path, self._contents.clusters(state, since=place), size=self._contents.size)
            return (self._milestone(place), path) if place else (path,)

    def _milestone(self, place: int) -> Path:
        if place not in self._made:
            path = Path(self._scratch.name) / f"{place}.qcow2"
            write(path, self._contents.clusters(prefix(place)), size=self._contents.size)
            self._made[place] = path
        return self._made[place]


def write(path: Path, clusters: Iterable[tuple[int, bytes]], *, size: int) -> None:
    """Writes a qcow2 disk of `size` bytes that holds these clusters; all others are read from the layer below."""
    held = dict(clusters)
    tables = sorted({number // _IN_TABLE for number in held})
    layout = _lay_out(size, tables=len(tables), data=len(held))
    first = 1 + layout.table_of_counts + layout.counts
    second = first + layout.first_table
    with path.open("wb") as file:
        file.write(_header(layout, size).ljust(CLUSTER, b"\0"))
        file.write(_words({number: (1 + layout.table_of_counts + number) * CLUSTER for number in range(layout.counts)},
                          layout.table_of_counts * _IN_TABLE))  # fmt: skip
        file.write(array("H", [0x0100] * layout.total).tobytes().ljust(layout.counts * CLUSTER, b"\0"))
        file.write(_words({table: (second + number) * CLUSTER | _COPIED for number, table in enumerate(tables)},
                          layout.first_table * _IN_TABLE))  # fmt: skip
        file.write(_second_tables(held, tables, second + layout.second_tables))
        file.write(b"".join(held.values()))


def _lay_out(size: int, *, tables: int, data: int) -> _Layout:
    first_table = -(-_first_entries(size) // _IN_TABLE)
    counts = table_of_counts = 1
    while True:
        layout = _Layout(table_of_counts=table_of_counts, counts=counts, first_table=first_table,
                         second_tables=tables, data=data)  # fmt: skip
        counts, table_of_counts = -(-layout.total // _COUNTS), -(-counts // _IN_TABLE)
        if (counts, table_of_counts) == (layout.counts, layout.table_of_counts):
            return layout


def _first_entries(size: int) -> int:
    return -(-size // (CLUSTER * _IN_TABLE))


def _header(layout: _Layout, size: int) -> bytes:
    first_table = (1 + layout.table_of_counts + layout.counts) * CLUSTER
    return struct.pack(
        ">4sIQIIQIIQQIIQQQQII", MAGIC, _VERSION, 0, 0, _BITS, size, 0, _first_entries(size), first_table,
        CLUSTER, layout.table_of_counts, 0, 0, 0, 0, 0, _REFCOUNT_ORDER, _HEADER_LENGTH,
    )  # fmt: skip


def _words(entries: dict[int, int], count: int) -> bytes:
    words = array("Q", bytes(8 * count))
    for number, word in entries.items():
        words[number] = word
    words.byteswap()
    return words.tobytes()


def _second_tables(held: dict[int, bytes], tables: list[int], data: int) -> bytes:
    place = {table: number * _IN_TABLE for number, table in enumerate(tables)}
    return _words({place[cluster // _IN_TABLE] + cluster % _IN_TABLE: (data + number) * CLUSTER | _COPIED
                   for number, cluster in enumerate(held)}, len(tables) * _IN_TABLE)  # fmt: skip
