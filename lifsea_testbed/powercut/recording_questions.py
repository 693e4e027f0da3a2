"""What the files of a recording can answer for: questions to a confined reader, answered by its own process.

`opened` and the questions run in that process; RecordedDisk asks them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lifsea_testbed.disk import layers
from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.disk.source import ByteSource, RawFile
from lifsea_testbed.powercut import boot_listing, unused_sectors
from lifsea_testbed.powercut.crash_states import CrashState, prefix
from lifsea_testbed.powercut.disk_contents import CLUSTER, CrashDisks
from lifsea_testbed.powercut.write_log import WriteLog
from lifsea_testbed.support.questions import question

#: The most bytes of the disk that one answer holds, and the most clusters that it compares.
PART, COMPARED = 4 << 20, 20_000


class OpenRecording:
    """The disk at the start of a recording, its log, and the overlay (qcow2) that has all its writes, if it is open."""

    def __init__(self, base: ByteSource, log: ByteSource, final: ByteSource | None) -> None:
        self.base = base
        self._log, self._final = log, final

    @functools.cached_property
    def log(self) -> WriteLog:
        """The log of writes."""
        return WriteLog(self._log, disk_size=self.base.size)

    @functools.cached_property
    def states(self) -> CrashDisks:
        """The disk of each state."""
        return CrashDisks(self.log, self.base)

    @functools.cached_property
    def final(self) -> Qcow2:
        """The disk at the end."""
        if self._final is None:
            raise ValueError("the recording has no overlay of its end")
        return Qcow2(self._final, self.base)

    @functools.cached_property
    def written(self) -> list[int]:
        """The clusters that were written, by the log or by the overlay, in order."""
        parts = (range(offset, offset + length, CLUSTER) for offset, length in self.final.own())
        return sorted({place // CLUSTER for part in parts for place in part} | self.states.touched())


@dataclass(frozen=True, kw_only=True)
class ReplayComparison:
    """How many clusters were compared, whether they were the last, and the first byte of one that differs, if any."""

    compared: int
    is_last: bool
    differs: int | None


def opened(arguments: Sequence[str]) -> OpenRecording:
    """Returns the recording in the files with those descriptors: format and number of layers, layers, log, overlay."""
    form, count, *numbers = arguments
    files = [RawFile(int(number)) for number in numbers]
    below, above = files[:int(count)], files[int(count):]
    return OpenRecording(layers.opened(form, below), above[0], above[1] if len(above) > 1 else None)


@question("the size of its disk")
def size(recording: OpenRecording) -> int:
    """Returns the size of the disk at the start (bytes)."""
    return recording.base.size


@question("its disk")
def part(recording: OpenRecording, offset: int, length: int) -> bytes:
    """Returns exactly so many bytes of the disk at the start, at most PART."""
    return recording.base.read_at(offset, min(length, PART))


@question("the journals of a crash state")
def never_used(recording: OpenRecording, state: CrashState) -> list[tuple[int, int]]:
    """Returns the sectors of a state's disk whose content makes no difference to a boot, as first and count."""
    return ranges(unused_sectors.never_used(recording.states.disk(state)))


@question("the journals of a crash state")
def overwritten_unseen(recording: OpenRecording, state: CrashState) -> list[tuple[int, int]]:
    """Returns the sectors of a state's disk that a recovery overwrites before they are used, as first and count."""
    return ranges(unused_sectors.overwritten_unseen(recording.states.disk(state)))


@question("the boot directories of a crash state")
def listing(recording: OpenRecording, state: CrashState) -> str:
    """Returns a listing of ostree's boot directories on a state's disk."""
    return boot_listing.listing(recording.states.disk(state))


@question("the replay of its log")
def compared(recording: OpenRecording, start: int) -> ReplayComparison:
    """Compares the replay of the whole log with the disk at the end, from that one of the written clusters on."""
    whole = recording.states.disk(prefix(len(recording.log.entries)))
    clusters = recording.written[start:start + COMPARED]
    differ = (place * CLUSTER for place in clusters if _cluster(whole, place) != _cluster(recording.final, place))
    return ReplayComparison(compared=len(clusters), is_last=start + len(clusters) >= len(recording.written),
                      differs=next(differ, None))  # fmt: skip


def ranges(sectors: Iterable[int]) -> list[tuple[int, int]]:
    """Returns the sectors as ranges, first and count, in order."""
    found = []
    for _, group in itertools.groupby(enumerate(sorted(sectors)), key=lambda pair: pair[1] - pair[0]):
        first, *rest = (sector for _, sector in group)
        found.append((first, 1 + len(rest)))
    return found


def _cluster(disk: ByteSource, number: int) -> bytes:
    return disk.read_at(number * CLUSTER, min(CLUSTER, disk.size - number * CLUSTER))
