"""The sweep: each distinct crash state booted once by the disk's own boot loader, and what came up judged.

What comes up is noted under the digest of the disk, line by line, so that a sweep that was killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lifsea_testbed.bench import Bench
from lifsea_testbed.deadline import Deadline
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import CallerError, GuestFailure
from lifsea_testbed.machine import Machine
from lifsea_testbed.powercut import disks
from lifsea_testbed.powercut.record import Facts, Recording, Timeline
from lifsea_testbed.powercut.states import Kind, State
from lifsea_testbed.qemu.overlay import Layers
from lifsea_testbed.scenario import IN_ETC
from lifsea_testbed.text import slug

_SHARD = "choose K/N with K from 1 to N, such as 1/4"


class Outcome(enum.StrEnum):
    """What a cut led to: the old image whole, the new one whole, or neither."""

    OLD = "old"
    NEW = "new"
    BROKEN = "broken"


class Depth(enum.StrEnum):
    """How much is asked of a machine that came up."""

    BOOT = "boot"
    FSCK = "fsck"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came up from a disk: as which state it was booted, why it is broken, the console's end, how long it took."""

    digest: str
    state: str
    outcome: Outcome
    depth: Depth
    why: str = ""
    console: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Part `number` of `count` equal parts of all disks; equal disks are in the same part."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads `K/N`.

        Raises:
            CallerError: it is something else.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise CallerError(f"{text}: no part of a sweep", hint=_SHARD)
        return cls(number=int(number), count=int(count))

    def holds(self, digest: str) -> bool:
        """Whether a disk belongs to this part."""
        return int(digest, 16) % self.count == self.number - 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The distinct disks of a sweep, in the order in which they are to be booted, and the states that lead to each."""

    of: dict[str, list[State]] = field(default_factory=dict)

    @property
    def enumerated(self) -> int:
        """How many states there are."""
        return sum(len(states) for states in self.of.values())


def plan(timeline: Timeline, kinds: Sequence[Kind] = tuple(Kind), shard: Shard | None = None) -> Plan:
    """Returns the disks of this part of the sweep."""
    found: dict[str, list[State]] = {}
    for state in timeline.states.enumerate(kinds):
        digest = timeline.contents.digest(state)
        if shard is None or shard.holds(digest):
            found.setdefault(digest, []).append(state)
    return Plan(of=found)


def judged(result: Result, state: State, facts: Facts) -> Result:
    """Returns the result as it counts for that state: once success was announced, the old image is broken."""
    if result.outcome is Outcome.OLD and facts.announced <= state.latest:
        return replace(result, state=state.name, outcome=Outcome.BROKEN,
                       why="the old image boots although the tool had announced success")  # fmt: skip
    return replace(result, state=state.name)


class Results:
    """The results so far: a file of JSON lines to which each is added, and flushed, when it is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.of: dict[str, Result] = {}
        if path.is_file():
            for line in path.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):  # the last line of a sweep that was killed
                    self._keep(_result(json.loads(line)))

    def add(self, result: Result) -> None:
        """Adds a result."""
        line = json.dumps(asdict(result))
        with self._path.open("a+b") as file:
            if file.tell() and not self._ends_line(file.fileno(), file.tell()):
                file.write(b"\n")
            file.write(line.encode() + b"\n")
        self._keep(result)

    def lacks(self, digest: str, depth: Depth) -> bool:
        """Whether a disk has yet to be booted for a result of that depth."""
        result = self.of.get(digest)
        return result is None or (depth is Depth.FSCK and result.depth is Depth.BOOT)

    def _keep(self, result: Result) -> None:
        self.of[result.digest] = result

    @staticmethod
    def _ends_line(descriptor: int, size: int) -> bool:
        return os.pread(descriptor, 1, size - 1) == b"\n"


def _result(found: dict[str, str]) -> Result:
    return Result(**{**found, "outcome": Outcome(found["outcome"]), "depth": Depth(found["depth"])})  # type: ignore[arg-type]


class Sweep:
    """Boots states of one recording on one bench."""

    def __init__(self, bench: Bench, recording: Recording, timeline: Timeline, *, depth: Depth = Depth.BOOT) -> None:
        self._bench, self._recording, self._timeline = bench, recording, timeline
        self._depth = depth

    def run(self, planned: Plan, results: Results, deadline: Deadline) -> Iterator[Result]:
        """Boots what has no result yet, one disk after the other, until the deadline; yields each result."""
        for digest, states in planned.of.items():
            if deadline.expired:
                return
            if results.lacks(digest, self._depth):
                result = self.boot(states[0], digest)
                results.add(result)
                yield result

    def boot(self, state: State, digest: str) -> Result:
        """Boots a state and returns what came up."""
        started = time.monotonic()
        with self.machine(state) as machine:
            try:
                machine.power_on()
                outcome, why, console = self._look(machine)
            except GuestFailure as error:
                outcome, why = Outcome.BROKEN, error.happened
                console = machine.boot.transcript.tail()
        return Result(digest=digest, state=state.name, outcome=outcome, why=why, console=console, depth=self._depth,
                      seconds=round(time.monotonic() - started, 1))  # fmt: skip

    @contextlib.contextmanager
    def machine(self, state: State) -> Iterator[Machine]:
        """The machine that was recorded, off, with the disk of that state below a fresh overlay."""
        facts = self._timeline.facts
        instance = Instance(type=self._bench.instance_type, id=facts.instance, uuid=facts.uuid,
                            disk_serial=facts.disk_serial, mac=facts.mac)  # fmt: skip
        path = self._recording.directory / f"{slug(state.name)}-{os.getpid()}.qcow2"
        try:
            disks.write(path, self._timeline.contents.clusters(state), size=facts.disk_size)
            layers = Layers(below=(self._recording.base, path))
            with self._bench.off(f"powercut-{state.name}", layers=layers, instance=instance) as machine:
                yield machine
        finally:
            path.unlink(missing_ok=True)

    def _look(self, machine: Machine) -> tuple[Outcome, str, str]:
        """Tells which image runs, and what is wrong with it."""
        facts, running = self._timeline.facts, machine.guest.booted_deployment().commit
        if running not in (facts.old, facts.new):
            return Outcome.BROKEN, f"neither the old nor the new image runs, but {running}", ""
        wrong = list(self._wrong(machine, is_new=running == facts.new))
        if wrong:
            return Outcome.BROKEN, "; ".join(wrong), machine.boot.transcript.tail()
        return Outcome.NEW if running == facts.new else Outcome.OLD, "", ""

    def _wrong(self, machine: Machine, *, is_new: bool) -> Iterator[str]:
        if machine.guest.read(IN_ETC) != IN_ETC:
            yield f"{IN_ETC} is not as it was before the upgrade"
        if is_new and (missing := machine.guest.new_defaults_missing()):
            yield f"/etc lacks new defaults: {', '.join(missing)}"
        if self._depth is Depth.FSCK and (damage := machine.guest.repository_damage()):
            yield f"ostree fsck: {damage[-1]}"
