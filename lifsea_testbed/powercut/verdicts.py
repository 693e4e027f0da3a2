"""Verdicts on crash states: the old image boots whole, or the new one, or the state is broken; stored line by line."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lifsea_testbed.errors import GuestFailure
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut.crash_states import CrashState
from lifsea_testbed.powercut.operation import CheckDepth, FirstBootOperation
from lifsea_testbed.powercut.recording import RecordingFacts
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, MACHINE_ID
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.upgrade.tools import OstreeTool, RpmOstreeTool, UpgradeTool

_MACHINE_ID = re.compile(r"[0-9a-f]{32}\n")
#: The most space left behind the root partition (bytes), and the least share of it that the file system must span: ext4
#: uses about 2 % for its own tables.
_UNUSED, _FILLED = 2 << 20, 0.95


class CrashVerdict(enum.StrEnum):
    """What boots from a crash state: the old image whole, the new one whole, or neither."""

    OLD = "old"
    NEW = "new"
    BROKEN = "broken"


class Evidence(enum.StrEnum):
    """How a verdict is known: by a boot, by inference, or by inference that a boot then confirmed or contradicted."""

    BOOTED = "booted"
    INFERRED = "inferred"
    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True, kw_only=True)
class CrashResult:
    """The result for one disk: the state that was booted, its verdict, the reason if broken, and the console's end.

    `reads` are the sectors read by the boot, of those that the log writes (first and count); none if they were not
    recorded. `like` is the state that the verdict was inferred from. `at` is the start of the boot (seconds since the
    epoch), `seconds` its duration.
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


def judged_as(result: CrashResult, state: CrashState, facts: RecordingFacts) -> CrashResult:
    """Returns the result for that state: once success was announced, an old image that boots is broken."""
    if result.outcome is CrashVerdict.OLD and facts.announced <= state.latest:
        return replace(result, state=state.name, outcome=CrashVerdict.BROKEN,
                       why="the old image boots although the tool had announced success")  # fmt: skip
    return replace(result, state=state.name)


class CrashResults:
    """The results so far, in a file of JSON lines; a sweep that was killed continues from it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.of: dict[str, CrashResult] = {}
        if path.is_file():
            for line in split_lines(path.read_text("utf-8")):
                with contextlib.suppress(ValueError, TypeError):  # the last line of a sweep that was killed
                    self._keep(_result(json.loads(line)))

    def add(self, result: CrashResult) -> None:
        """Appends a result in one write(2): several sweeps may share the file."""
        line = json.dumps(asdict(result)).encode() + b"\n"
        with self._path.open("a+b", buffering=0) as file:
            file.write(line if self._is_whole(file.fileno()) else b"\n" + line)
        self._keep(result)

    def lacks(self, digest: str, depth: CheckDepth) -> bool:
        """Whether a disk has no result of at least that depth."""
        result = self.of.get(digest)
        return result is None or result.depth.at_least(depth) is not result.depth

    def _keep(self, result: CrashResult) -> None:
        self.of[result.digest] = result

    @staticmethod
    def _is_whole(descriptor: int) -> bool:
        """Whether the last line is complete."""
        size = os.fstat(descriptor).st_size
        return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _result(found: dict[str, Any]) -> CrashResult:
    kinds = {"outcome": CrashVerdict(found["outcome"]), "depth": CheckDepth(found["depth"]),
             "how": Evidence(found.get("how", Evidence.BOOTED)),
             "reads": tuple((first, count) for first, count in found.get("reads", ()))}  # fmt: skip
    return CrashResult(**{**found, **kinds})


def judge(machine: Machine, facts: RecordingFacts, depth: CheckDepth, tool: UpgradeTool) -> tuple[CrashVerdict, str]:
    """Returns the verdict on a machine whose shell is open, and the reasons if it is broken; `tool` names the images.

    With CheckDepth.FSCK ostree's whole repository is read, and /usr compared with the commit, if the tool is ostree's;
    with NEXT the other one of the two images is deployed before, and pulled again if it was the offer.

    Raises:
        GuestFailure: a command on the machine failed.
    """
    running = tool.running()
    if running not in (facts.old, facts.new):
        return CrashVerdict.BROKEN, f"neither the old nor the new image runs, but {running}"
    is_new = running == facts.new
    if found := [*_state_errors(machine, facts, is_new=is_new), *_depth_errors(machine, facts, tool, running, depth)]:
        return CrashVerdict.BROKEN, "; ".join(found)
    return (CrashVerdict.NEW if is_new else CrashVerdict.OLD), ""


def _state_errors(machine: Machine, facts: RecordingFacts, *, is_new: bool) -> Iterator[str]:
    """Checks the machine's own state: made by the first boot, and kept by every other operation."""
    if facts.subject == FirstBootOperation.name:
        yield from _unprovisioned(machine)
        return
    if machine.guest.files.read(KEPT_IN_ETC) != KEPT_IN_ETC:
        yield f"{KEPT_IN_ETC} is not as it was before the upgrade"
    if is_new and (missing := machine.guest.deployments.missing_defaults()):
        yield f"/etc lacks new defaults: {', '.join(missing)}"


def _unprovisioned(machine: Machine) -> Iterator[str]:
    """Yields the tasks of a first boot that were not done, although it has booted again."""
    machine.wait_until_ready()
    if failed := machine.guest.units.failed():
        yield f"failed: {', '.join(failed)}"
    disk = machine.guest.disks.root()
    if disk.unused > _UNUSED or disk.filled < _FILLED:
        yield f"the root file system does not fill the disk: {disk}"
    if not _MACHINE_ID.fullmatch(machine.guest.files.read(MACHINE_ID) or ""):
        yield f"{MACHINE_ID} holds no machine-id"
    if machine.guest.system.host_name() != machine.instance.host_name:
        yield f"the host name is {machine.guest.system.host_name()}"
    if not machine.guest.system.user_data_runs():
        yield "user-data did not run"


def _depth_errors(machine: Machine, facts: RecordingFacts, tool: UpgradeTool, running: str,
                  depth: CheckDepth) -> Iterator[str]:
    if depth is CheckDepth.BOOT:
        return
    if depth is CheckDepth.NEXT and facts.old != facts.new:
        yield from _not_upgraded(machine, facts, tool, facts.new if running == facts.old else facts.old)
    if not isinstance(tool, OstreeTool | RpmOstreeTool):
        return
    if damage := machine.guest.deployments.repository_damage():
        yield f"ostree fsck: {damage[-1]}"
    if changed := machine.guest.deployments.changed_files():
        yield f"/usr is not the commit's: {', '.join(changed[:5])}"


def _not_upgraded(machine: Machine, facts: RecordingFacts, tool: UpgradeTool, name: str) -> Iterator[str]:
    try:
        if facts.offer and tool.name_of(facts.offer) == name:
            tool.apply(facts.offer)
        elif isinstance(tool, OstreeTool):
            machine.guest.deployments.deploy(machine.guest.deployments.booted().os, name)
        else:
            tool.roll_back()
    except GuestFailure as error:
        yield f"the next upgrade fails: {error.happened}: {error.evidence.strip()[-300:]}"
        return
    first = tool.boots_next()
    if first != name:
        yield f"the next upgrade reported success, but {first} boots next"
