"""The reference image is cut for real: at every flush it is the old or the new one, without flushes it is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lifsea_testbed.bench import Bench
from lifsea_testbed.powercut import campaign
from lifsea_testbed.powercut.campaign import Campaign
from lifsea_testbed.powercut.disks import Milestones
from lifsea_testbed.powercut.record import Timeline, load
from lifsea_testbed.powercut.results import Outcome
from lifsea_testbed.powercut.states import CrashStates, Kind
from lifsea_testbed.powercut.sweep import Sweep
from lifsea_testbed.powercut.writelog import Flag
from lifsea_testbed.preflight import Wish, prepare
from tests.real import built

pytestmark = [pytest.mark.nightly, pytest.mark.boots]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def bench(reports: Path) -> Iterator[Bench]:
    wish = Wish(image=str(built("reference")), next_image=str(built("next")), profile="reference",
                instance_type="ecs.g7.large", accelerator="auto", reports=reports)  # fmt: skip
    with contextlib.closing(prepare(wish).bench()) as made:
        yield made


def without_flushes(timeline: Timeline) -> CrashStates:
    """The states of a disk, or of an upgrade, that never flushes while it deploys."""
    during = range(timeline.facts.started, timeline.facts.announced)
    entries = [replace(entry, flags=Flag(0)) if place in during and entry.is_flush else entry
               for place, entry in enumerate(timeline.log.entries)]  # fmt: skip
    return CrashStates(entries, start=timeline.facts.started)


def test_every_flush_of_an_upgrade_leaves_old_or_new(bench: Bench, reports: Path) -> None:
    """The sweep raises what is broken; both images come up somewhere, so both sides of the upgrade were seen."""
    summary = campaign.sweep(bench, Campaign.parse(reports=reports, only=["flush"]))
    assert summary.left == 0
    assert {result.outcome for _, result in summary.states} == {Outcome.OLD, Outcome.NEW}


def test_an_upgrade_without_flushes_is_found_broken(bench: Bench, reports: Path) -> None:
    """The control: the same writes, half of them lost, as if nothing had been flushed, do not leave a whole image."""
    wished = Campaign.parse(reports=reports)
    with campaign.prepared(bench, wished) as (_, timeline):
        recording = load(wished.recording, bench.image, bench.next_image, "upgrade")
        assert recording is not None
        lying = replace(timeline, states=without_flushes(timeline))
        with Milestones(lying.contents, lying.states, recording.directory) as milestones:
            sweep = Sweep(bench, recording, lying, milestones)
            outcomes = [sweep.boot(state, lying.contents.digest(state)).outcome
                        for state in list(lying.states.enumerate([Kind.SUBSET]))[:2]]  # fmt: skip
    assert Outcome.BROKEN in outcomes
