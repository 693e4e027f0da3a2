"""A control of the power cut: a correct swap of two slots is never broken, each classic mistake is found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.powercut import recording
from lifsea_testbed.powercut.crash_states import CrashState, CrashStates, smallest
from lifsea_testbed.powercut.recording import Timeline
from lifsea_testbed.powercut.verdicts import CrashVerdict
from tests.support import real
from tests.support.disks import disk, fill
from tests.support.toy import IMAGES, ON_DISK, SWAPS, Span, Toy, judge

FIRST, RUNNING, NEXT = IMAGES


@pytest.mark.parametrize(("current", "a", "b", "outcome"), [
    ("a", RUNNING, FIRST, CrashVerdict.OLD), ("b", RUNNING, NEXT, CrashVerdict.NEW),
    ("b", RUNNING, FIRST, CrashVerdict.BROKEN),
    ("b", RUNNING, b"", CrashVerdict.BROKEN), ("b", RUNNING, NEXT[:-512] + bytes(512), CrashVerdict.BROKEN),
    ("c", RUNNING, NEXT, CrashVerdict.BROKEN),
])  # fmt: skip
def test_a_slot_is_judged_by_the_disk_alone(tmp_path: Path, current: str, a: bytes, b: bytes,
                                            outcome: CrashVerdict) -> None:
    place = f"{ON_DISK.lstrip('/')}/0"
    root = fill(tmp_path / "root", {f"{place}/a/image": a, f"{place}/b/image": b, f"{place}/current": f"-> {current}"})
    with RawFile(disk(tmp_path / "disk.raw", root=root)) as source:
        assert judge(source, 0) is outcome


@dataclass(frozen=True, kw_only=True)
class Swept:
    """One swap: its states, the broken ones, and the time it took to judge them (seconds)."""

    states: CrashStates
    count: int
    broken: list[CrashState]
    seconds: float


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Timeline, dict[str, Span]]]:
    directory, toy = tmp_path_factory.mktemp("toy"), Toy()
    with contextlib.ExitStack() as stack:
        factory = stack.enter_context(real.bench(directory / "reports"))
        made = recording.record(factory, directory / "recording", toy, settle=0.0)
        yield stack.enter_context(recording.timeline(made, factory.image)), toy.spans


def sweep(timeline: Timeline, span: Span, number: int) -> Swept:
    log, started = timeline.log, time.monotonic()
    states = CrashStates(log.entries[:log.count_at(span.ended)], start=log.count_at(span.started))
    seen: dict[str, CrashVerdict] = {}
    broken = []
    for state in states.enumerate():
        digest = timeline.contents.digest(state)
        outcome = seen.get(digest) or seen.setdefault(digest, judge(timeline.contents.disk(state), number))
        is_late = log.count_at(span.announced) <= state.latest
        if outcome is CrashVerdict.BROKEN or (outcome is CrashVerdict.OLD and is_late):
            broken.append(state)
    return Swept(states=states, count=len(seen), broken=broken, seconds=time.monotonic() - started)


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize(("number", "name"), list(enumerate(SWAPS)))
def test_each_mistake_is_found_and_nothing_else(recorded: tuple[Timeline, dict[str, Span]], number: int,
                                                name: str) -> None:
    timeline, spans = recorded
    swept = sweep(timeline, spans[name], number)
    print(f"{name}: {swept.count} distinct states, {len(swept.broken)} broken, "
          f"{60 * swept.count / swept.seconds:.0f} states/min")  # fmt: skip
    assert swept.count > 100
    assert bool(swept.broken) == (name != "correct")


@pytest.mark.nightly
@pytest.mark.boots
def test_what_breaks_is_shrunk_to_the_writes_that_matter(recorded: tuple[Timeline, dict[str, Span]]) -> None:
    """All writes of the correct swap are lost, as if nothing had been flushed: a part of them breaks it as well."""
    timeline, spans = recorded
    log, span = timeline.log, spans["correct"]
    first, last = log.count_at(span.started), log.count_at(span.announced)
    unflushed = [replace(entry, flags=entry.flags & 0) if first <= place < last else entry
                 for place, entry in enumerate(log.entries)]  # fmt: skip
    states = CrashStates(unflushed[:log.count_at(span.ended)], start=first)

    def breaks(lost: list[int]) -> bool:
        return judge(timeline.contents.disk(states.lacking(whole, lost)), 0) is CrashVerdict.BROKEN

    whole = next(state for state in states.enumerate() if len(states.lost(state)) > 3
                 and judge(timeline.contents.disk(state), 0) is CrashVerdict.BROKEN)  # fmt: skip
    few = smallest(states.lost(whole), lambda lost: breaks(list(lost)))
    assert 1 <= len(few) < len(states.lost(whole))
    assert breaks(few) and not any(breaks([number for number in few if number != one]) for one in few if len(few) > 1)
