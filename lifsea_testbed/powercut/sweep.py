"""The sweep: each distinct crash state is booted once by the disk's own boot loader, or its verdict is inferred."""

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
from lifsea_testbed.powercut.crash_states import CrashKind, CrashState
from lifsea_testbed.powercut.inference import Inference, parse_reads, unconfirmed
from lifsea_testbed.powercut.operation import CheckDepth, variables_of
from lifsea_testbed.powercut.recording import Recording, Timeline
from lifsea_testbed.powercut.verdicts import CrashResult, CrashResults, CrashVerdict, Evidence, judge
from lifsea_testbed.qemu.storage import Layers
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.sanitize import slug
from lifsea_testbed.support.shard import ShardIndex
from lifsea_testbed.upgrade.tools import upgrade_tool

#: How often a state is booted at most if the host fails (under TCG: SIGABRT, a timer that stopped; never repeated yet).
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """The distinct disks of a sweep, by digest in the order of their boots, and the states that lead to each."""

    of: dict[str, list[CrashState]] = field(default_factory=dict)

    @property
    def enumerated(self) -> int:
        """The number of states."""
        return sum(len(states) for states in self.of.values())


def plan(timeline: Timeline, kinds: Sequence[CrashKind] = tuple(CrashKind),
         shard: ShardIndex | None = None) -> SweepPlan:
    """Returns the disks of this shard; those of one kind are spread, so that a short budget leaves small gaps."""
    found: dict[str, list[CrashState]] = {}
    for state in timeline.states.enumerate(kinds):
        digest = timeline.contents.digest(state)
        if shard is None or shard.holds(digest):
            found.setdefault(digest, []).append(state)
    return SweepPlan(of={digest: found[digest] for kind in kinds for digest in _spread(found, kind)})


def _spread(found: dict[str, list[CrashState]], kind: CrashKind) -> list[str]:
    """The disks of one kind in the order of van der Corput: first, middle, quarters, eighths."""
    listed = [digest for digest, states in found.items() if states[0].kind is kind]
    bits = len(listed).bit_length()
    return [listed[place] for place in sorted(range(len(listed)), key=lambda place: f"{place:0{bits}b}"[::-1])]


class BootPool:
    """Boots that run at the same time, at most `most` of them."""

    def __init__(self, threads: ThreadPoolExecutor, boot: Callable[[CrashState, str], CrashResult], most: int) -> None:
        self._threads, self._boot, self._most = threads, boot, most
        self._states: dict[Future[CrashResult], CrashState] = {}

    def __bool__(self) -> bool:
        """Whether a boot is running."""
        return bool(self._states)

    @property
    def is_full(self) -> bool:
        """Whether no further boot may start."""
        return len(self._states) >= self._most

    def start(self, state: CrashState, digest: str) -> None:
        """Starts a boot."""
        self._states[self._threads.submit(self._boot, state, digest)] = state

    def completed(self) -> Iterator[tuple[CrashState, CrashResult]]:
        """Waits until at least one boot ends; yields all that did, those that raise an error last."""
        done = wait(self._states, return_when=FIRST_COMPLETED).done
        for future in sorted(done, key=lambda future: future.exception() is not None):
            yield self._states.pop(future), future.result()


class Sweep:
    """Boots the states of one recording, `at_once` of them at the same time."""

    def __init__(self, factory: MachineFactory, recording: Recording, timeline: Timeline,
                 milestones: qcow2_writer.Milestones, *, depth: CheckDepth = CheckDepth.BOOT, at_once: int = 1) -> None:
        self._factory, self._recording, self._timeline, self._milestones = factory, recording, timeline, milestones
        self._depth, self._at_once = depth, at_once

    def run(self, planned: SweepPlan, results: CrashResults, deadline: Deadline) -> Iterator[CrashResult]:
        """Yields new results, in the order of the plan; no boot starts after the deadline, inference goes on.

        A sample of the inferred results is confirmed once every disk has a result.
        """
        inference = self._inference(results)
        lacking = {digest: states[0] for digest, states in planned.of.items() if results.lacks(digest, self._depth)}
        with self._boots() as pool:
            for digest, state in lacking.items():
                while (result := inference.infer(state, digest)) is None and pool.is_full:
                    yield from self._learned(pool, inference, results)
                if result is not None:
                    results.add(result)
                    yield result
                elif not deadline.expired:
                    pool.start(state, digest)
            while pool:
                yield from self._learned(pool, inference, results)
        yield from self._confirm(planned, results, deadline)

    def _confirm(self, planned: SweepPlan, results: CrashResults, deadline: Deadline) -> Iterator[CrashResult]:
        """Boots a sample of the inferred states, once every disk has a result."""
        if any(results.lacks(digest, self._depth) for digest in planned.of):
            return
        with self._boots() as pool:
            for inferred in unconfirmed([results.of[digest] for digest in planned.of]):
                if pool.is_full:
                    yield from self._confirmed(pool, results)
                if deadline.expired:
                    break
                pool.start(planned.of[inferred.digest][0], inferred.digest)
            while pool:
                yield from self._confirmed(pool, results)

    def _learned(self, pool: BootPool, inference: Inference, results: CrashResults) -> Iterator[CrashResult]:
        for state, result in pool.completed():
            inference.learn(result, state)
            results.add(result)
            yield result

    def _confirmed(self, pool: BootPool, results: CrashResults) -> Iterator[CrashResult]:
        for _, booted in pool.completed():
            result = _compared(booted, results.of[booted.digest])
            results.add(result)
            yield result

    @contextlib.contextmanager
    def _boots(self) -> Iterator[BootPool]:
        with ThreadPoolExecutor(self._at_once) as threads:
            yield BootPool(threads, self._boot_with_retries, self._at_once)

    def result_of(self, state: CrashState, results: CrashResults) -> CrashResult:
        """Returns the result of a state's disk, from the results or by a boot now."""
        digest = self._timeline.contents.digest(state)
        if results.lacks(digest, self._depth):
            results.add(self._boot_with_retries(state, digest))
        return results.of[digest]

    def _boot_with_retries(self, state: CrashState, digest: str) -> CrashResult:
        """Boots a state, again if the host failed: that says nothing about the disk."""
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(HostError):
                return self.boot(state, digest)
        return self.boot(state, digest)

    def _inference(self, results: CrashResults) -> Inference:
        inference = Inference(self._timeline.contents, self._timeline.disk.never_used)
        for digest, result in results.of.items():
            if not results.lacks(digest, self._depth):
                inference.learn(result, self._timeline.states.find(result.state))
        return inference

    def boot(self, state: CrashState, digest: str) -> CrashResult:
        """Boots a state and returns the result."""
        at, started = time.time(), time.monotonic()
        with self.machine(state) as machine:
            try:
                machine.power_on()
                tool = upgrade_tool(machine, self._factory.profile.upgrades)
                outcome, why = judge(machine, self._timeline.facts, self._depth, tool)
            except GuestFailure as error:
                outcome, why = CrashVerdict.BROKEN, error.happened
            console = machine.boot.transcript.tail() if outcome is CrashVerdict.BROKEN else ""
            unseen = self._timeline.disk.overwritten_unseen(state)
            reads = parse_reads(self._reads(state).read_text("ascii"), self._timeline.contents, unseen)
        return CrashResult(digest=digest, state=state.name, outcome=outcome, why=why, console=console,
                           depth=self._depth, at=round(at, 1), seconds=round(time.monotonic() - started, 1),
                           reads=reads)  # fmt: skip

    @contextlib.contextmanager
    def machine(self, state: CrashState) -> Iterator[Machine]:
        """The recorded machine, off, with the disk of that state below a fresh overlay."""
        instance = recordings.instance(self._factory, self._timeline.facts)
        path, reads = self._reads(state).with_suffix(".qcow2"), self._reads(state)
        try:
            below = (*self._recording.layers, *self._milestones.write(path, state))
            layers = Layers(below=below, reads=reads, variables=variables_of(below))
            spec = MachineSpec(name=f"powercut-{state.name}", state=InitialState.OFF, layers=layers, instance=instance)
            with self._factory.create(spec) as machine:
                machine.network.serve_mirror(self._recording.repository)
                yield machine
        finally:
            path.unlink(missing_ok=True)
            reads.unlink(missing_ok=True)

    def _reads(self, state: CrashState) -> Path:
        return self._recording.directory / f"{slug(state.name)}-{os.getpid()}.reads"


def _compared(booted: CrashResult, inferred: CrashResult) -> CrashResult:
    """Returns the result of a boot, marked as confirming or contradicting the inferred one."""
    how = Evidence.CONFIRMED if booted.outcome is inferred.outcome else Evidence.CONTRADICTED
    return replace(booted, how=how, like=inferred.like)
