"""The sweep: each distinct crash state booted once by the disk's own boot loader, or its outcome inferred."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from lifsea_testbed.errors import GuestFailure, HostError
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut import qcow2_writer
from lifsea_testbed.powercut import recording as recordings
from lifsea_testbed.powercut.crash_states import Kind, State
from lifsea_testbed.powercut.inference import Inference, parse_reads, unconfirmed
from lifsea_testbed.powercut.operation import Depth
from lifsea_testbed.powercut.readahead import overwritten_unseen
from lifsea_testbed.powercut.recording import Recording, Timeline
from lifsea_testbed.powercut.results import How, Outcome, Result, Results
from lifsea_testbed.powercut.verdicts import look
from lifsea_testbed.qemu.storage import Layers
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.sanitize import slug
from lifsea_testbed.support.shard import ShardIndex

#: How often a state is booted under which the host fails (seen under TCG: SIGABRT, a timer that stands; not again).
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The distinct disks of a sweep, in the order in which they are to be booted, and the states that lead to each."""

    of: dict[str, list[State]] = field(default_factory=dict)

    @property
    def enumerated(self) -> int:
        """How many states there are."""
        return sum(len(states) for states in self.of.values())


def plan(timeline: Timeline, kinds: Sequence[Kind] = tuple(Kind), shard: ShardIndex | None = None) -> Plan:
    """Returns the disks of this part of the sweep; those of a kind spread, so that a budget leaves small gaps."""
    found: dict[str, list[State]] = {}
    for state in timeline.states.enumerate(kinds):
        digest = timeline.contents.digest(state)
        if shard is None or shard.holds(digest):
            found.setdefault(digest, []).append(state)
    return Plan(of={digest: found[digest] for kind in kinds for digest in _spread(found, kind)})


def _spread(found: dict[str, list[State]], kind: Kind) -> list[str]:
    """The disks of one kind in the order of van der Corput: first, middle, quarters, eighths."""
    listed = [digest for digest, states in found.items() if states[0].kind is kind]
    bits = len(listed).bit_length()
    return [listed[place] for place in sorted(range(len(listed)), key=lambda place: f"{place:0{bits}b}"[::-1])]


class Going:
    """Boots that go on at the same time, no more than so many."""

    def __init__(self, pool: ThreadPoolExecutor, boot: Callable[[State, str], Result], most: int) -> None:
        self._pool, self._boot, self._most = pool, boot, most
        self._states: dict[Future[Result], State] = {}

    def __bool__(self) -> bool:
        """Whether any goes on."""
        return bool(self._states)

    @property
    def is_full(self) -> bool:
        """Whether no further one may start."""
        return len(self._states) >= self._most

    def start(self, state: State, digest: str) -> None:
        """Starts one."""
        self._states[self._pool.submit(self._boot, state, digest)] = state

    def ended(self) -> Iterator[tuple[State, Result]]:
        """Waits until one ends at least; yields those that did, and those last that raise an error."""
        done = wait(self._states, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=lambda future: future.exception() is not None):
            yield self._states.pop(future), future.result()


class Sweep:
    """Boots states of one recording on one factory, so many at once."""

    def __init__(self, factory: MachineFactory, recording: Recording, timeline: Timeline,
                 milestones: qcow2_writer.Milestones, *, depth: Depth = Depth.BOOT, at_once: int = 1) -> None:
        self._factory, self._recording, self._timeline, self._milestones = factory, recording, timeline, milestones
        self._depth, self._at_once = depth, at_once

    def run(self, planned: Plan, results: Results, deadline: Deadline) -> Iterator[Result]:
        """Gives each disk its result, in the order of the plan, boots until the deadline alone; yields the new ones.

        What could be inferred is confirmed, in part, once every disk has a result.
        """
        known = self._inference(results)
        lacking = {digest: states[0] for digest, states in planned.of.items() if results.lacks(digest, self._depth)}
        with self._boots() as going:
            for digest, state in lacking.items():
                while (result := known.infer(state, digest)) is None and going.is_full:
                    yield from self._learned(going, known, results)
                if result is not None:
                    results.add(result)
                    yield result
                elif not deadline.expired:
                    going.start(state, digest)
            while going:
                yield from self._learned(going, known, results)
        yield from self._confirm(planned, results, deadline)

    def _confirm(self, planned: Plan, results: Results, deadline: Deadline) -> Iterator[Result]:
        """Boots a part of what was inferred; none of it before the last disk that nothing is known of."""
        if any(results.lacks(digest, self._depth) for digest in planned.of):
            return
        with self._boots() as going:
            for inferred in unconfirmed([results.of[digest] for digest in planned.of]):
                if going.is_full:
                    yield from self._confirmed(going, results)
                if deadline.expired:
                    break
                going.start(planned.of[inferred.digest][0], inferred.digest)
            while going:
                yield from self._confirmed(going, results)

    def _learned(self, going: Going, known: Inference, results: Results) -> Iterator[Result]:
        for state, result in going.ended():
            known.learn(result, state)
            results.add(result)
            yield result

    def _confirmed(self, going: Going, results: Results) -> Iterator[Result]:
        for _, booted in going.ended():
            result = _compared(booted, results.of[booted.digest])
            results.add(result)
            yield result

    @contextlib.contextmanager
    def _boots(self) -> Iterator[Going]:
        with ThreadPoolExecutor(self._at_once) as pool:
            yield Going(pool, self._boot_surely, self._at_once)

    def known(self, state: State, results: Results) -> Result:
        """Returns what a state leads to: as it is known of its disk, or by a boot now."""
        digest = self._timeline.contents.digest(state)
        if results.lacks(digest, self._depth):
            results.add(self._boot_surely(state, digest))
        return results.of[digest]

    def _boot_surely(self, state: State, digest: str) -> Result:
        """Boots a state again if the host failed under it: that says nothing of the disk."""
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(HostError):
                return self.boot(state, digest)
        return self.boot(state, digest)

    def _inference(self, results: Results) -> Inference:
        known = Inference(self._timeline.contents)
        for digest, result in results.of.items():
            if not results.lacks(digest, self._depth):
                known.learn(result, self._timeline.states.find(result.state))
        return known

    def boot(self, state: State, digest: str) -> Result:
        """Boots a state and returns what came up."""
        at, started = time.time(), time.monotonic()
        with self.machine(state) as machine:
            try:
                machine.power_on()
                outcome, why = look(machine, self._timeline.facts, self._depth)
            except GuestFailure as error:
                outcome, why = Outcome.BROKEN, error.happened
            console = machine.boot.transcript.tail() if outcome is Outcome.BROKEN else ""
            unseen = overwritten_unseen(self._timeline.contents.disk(state))
            reads = parse_reads(self._reads(state).read_text("ascii"), self._timeline.contents, unseen)
        return Result(digest=digest, state=state.name, outcome=outcome, why=why, console=console, depth=self._depth,
                      at=round(at, 1), seconds=round(time.monotonic() - started, 1), reads=reads)  # fmt: skip

    @contextlib.contextmanager
    def machine(self, state: State) -> Iterator[Machine]:
        """The machine that was recorded, off, with the disk of that state below a fresh overlay."""
        instance = recordings.instance(self._factory, self._timeline.facts)
        path, reads = self._reads(state).with_suffix(".qcow2"), self._reads(state)
        try:
            layers = Layers(below=(*self._recording.layers, *self._milestones.write(path, state)), reads=reads)
            spec = MachineSpec(name=f"powercut-{state.name}", state=InitialState.OFF, layers=layers, instance=instance)
            with self._factory.create(spec) as machine:
                machine.network.serve_mirror(self._recording.repository)
                yield machine
        finally:
            path.unlink(missing_ok=True)
            reads.unlink(missing_ok=True)

    def _reads(self, state: State) -> Path:
        return self._recording.directory / f"{slug(state.name)}-{os.getpid()}.reads"


def _compared(booted: Result, inferred: Result) -> Result:
    """The result of a boot, and whether it is what had been inferred."""
    how = How.CONFIRMED if booted.outcome is inferred.outcome else How.CONTRADICTED
    return replace(booted, how=how, like=inferred.like)
