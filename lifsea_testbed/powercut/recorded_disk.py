"""The disk of a recording and its crash states' disks, as a confined reader finds them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from lifsea_testbed.disk import layers
from lifsea_testbed.disk.image import Image
from lifsea_testbed.errors import DiskDamaged, NotJudged, TestbedError
from lifsea_testbed.powercut import recording_questions as questions
from lifsea_testbed.powercut.crash_states import CrashState
from lifsea_testbed.powercut.write_log import SECTOR
from lifsea_testbed.support.questions import Question


class RecordedDisk:
    """The disk at the start of a recording, `size` bytes, with the log of writes to it; several threads may read it.

    `read_at`, `listing` and `check_replay` raise DiskDamaged where the disk contradicts itself, and NotJudged where it
    is not read offline.
    """

    def __init__(self, image: Image, overlays: tuple[Path, ...], log: Path, final: Path | None = None) -> None:
        self._reader = layers.reader(questions.__name__, image, *overlays, beside=(log, *([final] if final else [])))
        self.size = self._reader.ask(questions.size)

    def close(self) -> None:
        """Ends the reader."""
        self._reader.close()

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of the disk."""
        parts = [self._part(offset + start, min(questions.PART, length - start))
                 for start in range(0, length, questions.PART)]  # fmt: skip
        return b"".join(parts)

    def never_used(self, state: CrashState) -> set[int]:
        """Returns sectors whose content makes no difference to a boot of that state, as far as it can be read."""
        return self._sectors(questions.never_used, state)

    def overwritten_unseen(self, state: CrashState) -> set[int]:
        """Returns sectors that a journal's recovery overwrites before they are used, as far as it can be read."""
        return self._sectors(questions.overwritten_unseen, state)

    def listing(self, state: CrashState) -> str:
        """Returns a listing of ostree's boot directories on each ext4 partition, without and with its journal."""
        return self._reader.ask(questions.listing, state)

    def check_replay(self) -> None:
        """Makes sure that the whole log, replayed on the base, gives the disk at the end, byte for byte.

        Raises:
            TestbedError: it differs.
        """
        start, is_last = 0, False
        while not is_last:
            found = self._reader.ask(questions.compared, start)
            if found.differs is not None:
                raise TestbedError(f"the replay of the log differs from the recorded disk at byte {found.differs}",
                                   expected="a replay of the whole log gives the disk as it was at the end",
                                   hint="record again; QEMU before 9.0 may corrupt the log")  # fmt: skip
            start, is_last = start + found.compared, found.is_last or not found.compared

    def _sectors(self, question: Question[[CrashState], list[tuple[int, int]]], state: CrashState) -> set[int]:
        with contextlib.suppress(DiskDamaged, NotJudged):
            end = self.size // SECTOR
            return {sector for first, count in self._reader.ask(question, state)
                    for sector in range(first, min(first + count, end))}  # fmt: skip
        return set()

    def _part(self, offset: int, length: int) -> bytes:
        data = self._reader.ask(questions.part, offset, length)
        if len(data) != length:
            raise TestbedError(f"the reader of the recorded disk gave {len(data)} bytes of {length}")
        return data
