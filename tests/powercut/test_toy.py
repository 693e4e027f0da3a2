"""The power cut must be able to find mistakes: a right swap of two slots is clean, each classic mistake is found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.powercut import recording
from lifsea_testbed.powercut.crash_states import CrashStates, State
from lifsea_testbed.powercut.recording import Timeline
from lifsea_testbed.powercut.results import Outcome
from lifsea_testbed.powercut.shrink import smallest
from tests.support import real
from tests.support.disks import disk, fill
from tests.support.toy import IMAGES, ON_DISK, SWAPS, Span, Toy, judge

FIRST, RUNNING, NEXT = IMAGES


@pytest.mark.parametrize(("current", "a", "b", "outcome"), [
    ("a", RUNNING, FIRST, Outcome.OLD), ("b", RUNNING, NEXT, Outcome.NEW), ("b", RUNNING, FIRST, Outcome.BROKEN),
    ("b", RUNNING, b"", Outcome.BROKEN), ("b", RUNNING, NEXT[:-512] + bytes(512), Outcome.BROKEN),
    ("c", RUNNING, NEXT, Outcome.BROKEN),
])  # fmt: skip
def test_a_slot_is_judged_by_the_disk_alone(tmp_path: Path, current: str, a: bytes, b: bytes, outcome: Outcome) -> None:
    place = f"{ON_DISK.lstrip('/')}/0"
    root = fill(tmp_path / "root", {f"{place}/a/image": a, f"{place}/b/image": b, f"{place}/current": f"-> {current}"})
    with RawFile(disk(tmp_path / "disk.raw", root=root)) as source:
        assert judge(source, 0) is outcome


@dataclass(frozen=True, kw_only=True)
class Swept:
    """One swap: all its states, those that are broken, how long it took (seconds)."""

    states: CrashStates
    count: int
    broken: list[State]
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
    seen: dict[str, Outcome] = {}
    broken = []
    for state in states.enumerate():
        digest = timeline.contents.digest(state)
        outcome = seen.get(digest) or seen.setdefault(digest, judge(timeline.contents.disk(state), number))
        is_late = log.count_at(span.announced) <= state.latest
        if outcome is Outcome.BROKEN or (outcome is Outcome.OLD and is_late):
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
    assert bool(swept.broken) == (name != "right")


@pytest.mark.nightly
@pytest.mark.boots
def test_what_breaks_is_shrunk_to_the_writes_that_matter(recorded: tuple[Timeline, dict[str, Span]]) -> None:
    """As if nothing had been flushed, all writes of the right swap are lost: a part of them does as well."""
    timeline, spans = recorded
    log, span = timeline.log, spans["right"]
    first, last = log.count_at(span.started), log.count_at(span.announced)
    unflushed = [replace(entry, flags=entry.flags & 0) if first <= place < last else entry
                 for place, entry in enumerate(log.entries)]  # fmt: skip
    states = CrashStates(unflushed[:log.count_at(span.ended)], start=first)

    def breaks(lost: list[int]) -> bool:
        return judge(timeline.contents.disk(states.lacking(whole, lost)), 0) is Outcome.BROKEN

    whole = next(state for state in states.enumerate() if len(states.lost(state)) > 3
                 and judge(timeline.contents.disk(state), 0) is Outcome.BROKEN)  # fmt: skip
    few = smallest(states.lost(whole), lambda lost: breaks(list(lost)))
    assert 1 <= len(few) < len(states.lost(whole))
    assert breaks(few) and not any(breaks([number for number in few if number != one]) for one in few if len(few) > 1)
