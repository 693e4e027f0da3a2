"""What came up from each disk: judged, and kept line by line so that a sweep that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import enum
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lifsea_testbed.powercut.crash_states import CrashState
from lifsea_testbed.powercut.operation import CheckDepth
from lifsea_testbed.powercut.recording import RecordingFacts


class CrashVerdict(enum.StrEnum):
    """What a cut led to: the old image whole, the new one whole, or neither."""

    OLD = "old"
    NEW = "new"
    BROKEN = "broken"


class Evidence(enum.StrEnum):
    """How an outcome is known: by a boot; from another state's; from it and by a boot that agreed, or that did not."""

    BOOTED = "booted"
    INFERRED = "inferred"
    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True, kw_only=True)
class CrashResult:
    """What came up from a disk: as which state it was booted, why it is broken, the console's end, when and how long.

    `reads` are the sectors that were read of those that the log touches (first and count), none if that was not noted;
    `like` is the state that it was inferred from. `at` is the moment at which the boot began (seconds since the epoch),
    `seconds` its length.
    """

    digest: str
    state: str
    outcome: CrashVerdict
    depth: CheckDepth
    why: str = ""
    console: str = ""
    at: float = 0.0
    seconds: float = 0.0
    how: Evidence = Evidence.BOOTED
    like: str = ""
    reads: tuple[tuple[int, int], ...] = ()


def judged(result: CrashResult, state: CrashState, facts: RecordingFacts) -> CrashResult:
    """Returns the result as it counts for that state: once success was announced, the old image is broken."""
    if result.outcome is CrashVerdict.OLD and facts.announced <= state.latest:
        return replace(result, state=state.name, outcome=CrashVerdict.BROKEN,
                       why="the old image boots although the tool had announced success")  # fmt: skip
    return replace(result, state=state.name)


class CrashResults:
    """The results so far: a file of JSON lines to which each is added, and flushed, when it is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.of: dict[str, CrashResult] = {}
        if path.is_file():
            for line in path.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):  # the last line of a sweep that was killed
                    self._keep(_result(json.loads(line)))

    def add(self, result: CrashResult) -> None:
        """Adds a result, in one write: several sweeps may share the file."""
        line = json.dumps(asdict(result)).encode() + b"\n"
        with self._path.open("a+b", buffering=0) as file:
            file.write(line if self._is_whole(file.fileno()) else b"\n" + line)
        self._keep(result)

    def lacks(self, digest: str, depth: CheckDepth) -> bool:
        """Whether a disk has yet to be booted for a result of that depth."""
        result = self.of.get(digest)
        return result is None or result.depth.at_least(depth) is not result.depth

    def _keep(self, result: CrashResult) -> None:
        self.of[result.digest] = result

    @staticmethod
    def _is_whole(descriptor: int) -> bool:
        """Whether the last line was written to its end."""
        size = os.fstat(descriptor).st_size
        return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _result(found: dict[str, Any]) -> CrashResult:
    kinds = {"outcome": CrashVerdict(found["outcome"]), "depth": CheckDepth(found["depth"]),
             "how": Evidence(found.get("how", Evidence.BOOTED)),
             "reads": tuple((first, count) for first, count in found.get("reads", ()))}  # fmt: skip
    return CrashResult(**{**found, **kinds})
