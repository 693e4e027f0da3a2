"""Real power cuts of the reference image: at every flush it boots old or new; without flushes it is broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.powercut import campaign
from lifsea_testbed.powercut.campaign import SweepOptions
from lifsea_testbed.powercut.crash_states import CrashKind, CrashStates
from lifsea_testbed.powercut.qcow2_writer import Milestones
from lifsea_testbed.powercut.recording import Timeline, load
from lifsea_testbed.powercut.sweep import Sweep
from lifsea_testbed.powercut.verdicts import CrashVerdict
from lifsea_testbed.powercut.write_log import LogFlag
from tests.support.real import built

pytestmark = [pytest.mark.nightly, pytest.mark.boots]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def factory(reports: Path) -> Iterator[MachineFactory]:
    context = run_context(image=str(built("reference")), next_image=str(built("next")), profile="reference",
                          instance_type="ecs.g7.large", accelerator="auto", reports=reports)  # fmt: skip
    with contextlib.closing(MachineFactory(context)) as made:
        yield made


def without_flushes(timeline: Timeline) -> CrashStates:
    """The states of a disk that never flushes from the operation's start until its success."""
    during = range(timeline.facts.started, timeline.facts.announced)
    entries = [replace(entry, flags=LogFlag(0)) if place in during and entry.is_flush else entry
               for place, entry in enumerate(timeline.log.entries)]  # fmt: skip
    return CrashStates(entries, start=timeline.facts.started)


def test_every_flush_of_an_upgrade_leaves_old_or_new(factory: MachineFactory, reports: Path) -> None:
    """The sweep raises if a state is broken; both images boot from some state: both sides of the upgrade were cut."""
    summary = campaign.sweep(factory, SweepOptions.parse(reports=reports, only=["flush"]))
    assert summary.left == 0
    assert {result.outcome for _, result in summary.states} == {CrashVerdict.OLD, CrashVerdict.NEW}


@pytest.mark.parametrize("operation", ["upgrade", "pull"])
def test_writes_without_flushes_are_found_broken(factory: MachineFactory, reports: Path, operation: str) -> None:
    """The control: the same writes, half of them lost, as if nothing had been flushed, do not leave a whole image."""
    options = SweepOptions.parse(reports=reports, operation=operation)
    with campaign.open_sweep(factory, options) as (_, timeline):
        recording = load(options.recording, factory.image, factory.next_image, operation)
        assert recording is not None
        lying = replace(timeline, states=without_flushes(timeline))
        with Milestones(lying.contents, lying.states, recording.directory) as milestones:
            sweep = Sweep(factory, recording, lying, milestones, depth=options.depth)
            outcomes = [sweep.boot(state, lying.contents.digest(state)).outcome
                        for state in list(lying.states.enumerate([CrashKind.SUBSET]))[:2]]  # fmt: skip
    assert CrashVerdict.BROKEN in outcomes


@pytest.mark.parametrize("operation", ["pull", "rollback", "staged", "first-boot"])
def test_other_operations_leave_a_whole_machine(factory: MachineFactory, reports: Path, operation: str) -> None:
    """At flushes spread over the operation, for six minutes."""
    options = SweepOptions.parse(reports=reports, operation=operation, only=["flush"], budget="6m")
    summary = campaign.survey(factory, options)
    assert summary.booted >= 2
    assert [(failure.state, failure.why) for failure in summary.failures] == []


def test_a_boot_after_a_cut_can_be_cut_as_well(factory: MachineFactory, reports: Path) -> None:
    options = SweepOptions.parse(reports=reports, only=["flush"], budget="6m")
    with campaign.open_sweep(factory, options) as (_, timeline):
        late = [epoch for epoch in timeline.states.epochs if epoch.end < timeline.facts.announced][-1]
    summary = campaign.survey(factory, replace(options, second=f"epoch {late.number}"))
    assert summary.booted >= 2
    assert [(failure.state, failure.why) for failure in summary.failures] == []


def test_the_next_upgrade_succeeds_from_a_cut_in_the_middle(factory: MachineFactory, reports: Path) -> None:
    options = SweepOptions.parse(reports=reports, depth="next")
    with campaign.open_sweep(factory, options) as (sweep, timeline):
        during = [epoch for epoch in timeline.states.tried if epoch.end < timeline.facts.announced]
        state = timeline.states.find(f"epoch {during[len(during) // 2].number}")
        result = sweep.boot(state, timeline.contents.digest(state))
    assert (result.outcome, result.why) == (CrashVerdict.OLD, "")
