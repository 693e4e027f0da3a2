"""A sweep boots each distinct disk once, goes on where it was killed, and counts what came up as it should."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from lifsea_testbed.cli import main
from lifsea_testbed.disk.image import Image
from lifsea_testbed.errors import CallerError, GuestFailure, HostError, LaunchError, NotJudged, TimerStarved
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.powercut import campaign, inference, recording, report
from lifsea_testbed.powercut.crash_states import CrashStates, Kind, State
from lifsea_testbed.powercut.disk_contents import Contents
from lifsea_testbed.powercut.inference import parse_reads
from lifsea_testbed.powercut.operation import Depth
from lifsea_testbed.powercut.recording import Facts, Recording, Timeline
from lifsea_testbed.powercut.results import How, Outcome, Result, Results, judged
from lifsea_testbed.powercut.sweep import Going, Sweep, plan
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.shard import ShardIndex
from lifsea_testbed.upgrade.offer import Offer
from tests.powercut.test_crash_states import BASE, FLUSH, Bytes, filled, logged, read

#: Entry 5 is the first write of epoch 2: without it the old image boots, and success had been announced.
_WITHOUT_THAT = "epoch 2, without write 1"
# The last write before the announcement (entry 5) is only flushed after it.
MADE = [(0, filled(1)), FLUSH, (4, filled(2, 2)), (0, filled(1)), FLUSH, (9, filled(2)), (12, filled(1)), FLUSH]
FACTS = Facts(subject="upgrade", image="a", next_image="b", profile="reference", instance="i", uuid="u",
              disk_serial="d", mac="m", layers=("base.qcow2",), offer=None, old="0", new="1", started=2, announced=6,
              disk_size=len(BASE), qemu="10.0.2")  # fmt: skip


@pytest.fixture
def timeline() -> Timeline:
    log = read(logged(MADE))
    return Timeline(facts=FACTS, log=log, contents=Contents(log, Bytes(BASE)),
                    states=CrashStates(log.entries, start=FACTS.started))  # fmt: skip


class Paper(Sweep):
    """A sweep that boots nothing: the new image comes up once the write at sector 9 is there."""

    def __init__(self, timeline: Timeline, outcomes: dict[str, Outcome] | None = None,
                 depth: Depth = Depth.BOOT, reads: tuple[tuple[int, int], ...] = (), at_once: int = 1) -> None:
        self.booted: list[str] = []
        self._read, self._at_once = reads, at_once
        self._timeline, self._depth = timeline, depth
        self._outcomes = outcomes or {}

    def boot(self, state: State, digest: str) -> Result:
        self.booted.append(state.name)
        is_new = state.position > 5 and 5 not in dict(state.kept)
        outcome = self._outcomes.get(state.name, Outcome.NEW if is_new else Outcome.OLD)
        return Result(digest=digest, state=state.name, outcome=outcome, depth=self._depth, seconds=30.0,
                      at=30.0 * len(self.booted), reads=self._read)  # fmt: skip


def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.jsonl")


def run(sweep: Paper, timeline: Timeline, found: Results) -> None:
    list(sweep.run(plan(timeline), found, Deadline.after(60.0)))


def test_equal_disks_are_booted_once(timeline: Timeline, tmp_path: Path) -> None:
    sweep, planned = Paper(timeline), plan(timeline)
    run(sweep, timeline, results(tmp_path))
    assert len(sweep.booted) == len(planned.of) < planned.enumerated
    assert sweep.booted[:3] == ["epoch 1", "epoch 3", "epoch 2"]


def test_a_sweep_that_was_killed_goes_on(timeline: Timeline, tmp_path: Path) -> None:
    run(Paper(timeline), timeline, results(tmp_path))
    path = tmp_path / "results.jsonl"
    whole = path.read_text("utf-8")
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20], "utf-8")
    sweep = Paper(timeline)
    run(sweep, timeline, results(tmp_path))
    assert len(sweep.booted) == len(lines) - 3
    assert results(tmp_path).of.keys() == {json.loads(line)["digest"] for line in lines}


def test_a_deeper_sweep_boots_again(timeline: Timeline, tmp_path: Path) -> None:
    run(Paper(timeline), timeline, results(tmp_path))
    deeper = Paper(timeline, depth=Depth.FSCK)
    run(deeper, timeline, results(tmp_path))
    assert len(deeper.booted) == len(plan(timeline).of)
    assert not results(tmp_path).lacks(next(iter(plan(timeline).of)), Depth.BOOT)


def test_no_boot_starts_after_the_deadline(timeline: Timeline, tmp_path: Path) -> None:
    sweep = Paper(timeline)
    assert list(sweep.run(plan(timeline), results(tmp_path), Deadline.after(0.0))) == []


def test_several_states_are_booted_at_once(timeline: Timeline, tmp_path: Path) -> None:
    """No boot ends before as many go on as may; what none of them can tell is booted still, and each just once."""
    sweep, boot, meeting = Paper(timeline, at_once=3), Paper(timeline).boot, threading.Barrier(3)

    def crowded(state: State, digest: str) -> Result:
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(10.0 if len(sweep.booted) < 3 else 0.0)
        sweep.booted.append(state.name)
        return boot(state, digest)

    sweep.boot = crowded  # type: ignore[method-assign]
    found = results(tmp_path)
    run(sweep, timeline, found)
    assert sorted(sweep.booted) == sorted(states[0].name for states in plan(timeline).of.values())
    assert set(sweep.booted[:3]) == {"epoch 1", "epoch 3", "epoch 2"}


def test_what_several_boots_took_is_counted_once(timeline: Timeline, tmp_path: Path) -> None:
    found = results(tmp_path)
    first, second, third = list(plan(timeline).of)[:3]
    for digest, at, seconds in ((first, 100.0, 30.0), (second, 110.0, 40.0), (third, 200.0, 10.0)):
        found.add(Result(digest=digest, state="epoch 1", outcome=Outcome.OLD, depth=Depth.BOOT, at=at, seconds=seconds))
    assert report.summarise(timeline, plan(timeline), found).seconds == 60.0


def test_a_host_that_fails_says_nothing_of_the_disk(timeline: Timeline, tmp_path: Path) -> None:
    sweep = Paper(timeline)
    died = iter([LaunchError("QEMU was killed by SIGABRT"), TimerStarved("no timer ticks")])
    boot = sweep.boot

    def fragile(state: State, digest: str) -> Result:
        if error := next(died, None):
            raise error
        return boot(state, digest)

    sweep.boot = fragile  # type: ignore[method-assign]
    run(sweep, timeline, results(tmp_path))
    assert len(sweep.booted) == len(plan(timeline).of)


def test_what_a_boot_never_read_needs_no_boot(timeline: Timeline, tmp_path: Path) -> None:
    """States that differ in sector 12 alone have one outcome if no boot reads it; one in twenty is booted still."""
    sweep = Paper(timeline, reads=((0, 1), (4, 2), (9, 1)))
    found = results(tmp_path)
    run(sweep, timeline, found)
    known = {result.state: result for result in found.of.values()}
    same = known["epoch 2, after write 1"], known["epoch 3"]
    assert len(sweep.booted) < len(plan(timeline).of)
    assert [result.outcome for result in same] == [Outcome.NEW, Outcome.NEW]
    assert {result.how for result in same} == {How.BOOTED, How.INFERRED}
    assert all(result.like in sweep.booted for result in known.values() if result.how is How.INFERRED)


def test_no_more_are_confirmed_than_tell_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones whatever was confirmed of them before; none that was booted anyway."""
    monkeypatch.setattr(inference, "_MOST", 3)
    found = [Result(digest=f"{20 * number:08x}", state="epoch 1", outcome=Outcome.OLD, depth=Depth.BOOT, how=how)
             for number, how in enumerate([How.BOOTED, How.INFERRED, How.CONFIRMED, *[How.INFERRED] * 5])]  # fmt: skip
    found += [replace(found[1], digest=f"{20 * number + 1:08x}") for number in range(5)]
    assert [result.digest for result in inference.unconfirmed(reversed(found))] == ["00000014", "0000003c"]


def test_a_boot_that_disagrees_is_told(timeline: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_ONE_IN", 1)
    sweep = Paper(timeline, {"epoch 2, after write 1": Outcome.BROKEN}, reads=((0, 1), (4, 2), (9, 1)))
    found = results(tmp_path)
    run(sweep, timeline, found)
    assert Counter(result.how for result in found.of.values())[How.CONTRADICTED] == 1
    assert report.summarise(timeline, plan(timeline), found).contradicted == 1


def test_reads_are_told_by_the_trace(timeline: Timeline) -> None:
    lines = ["virtio_blk_handle_read vdev 0x55 req 0x56 sector 3 nsectors 3", "something else sector 9 nsectors 1",
             "virtio_blk_handle_read vdev 0x55 req 0x56 sector 12 nsectors 1"]  # fmt: skip
    assert parse_reads("\n".join(lines), timeline.contents) == ((4, 2), (12, 1))


def test_what_a_machine_had_written_itself_tells_nothing_of_the_disk(timeline: Timeline) -> None:
    """Unless it read it before, or wrote it to another disk."""
    did = "virtio_blk_handle_{} vdev 0x{} req 0x56 sector {} nsectors 1".format
    lines = [did("read", 55, 0), did("write", 55, 0), did("write", 55, 4), did("read", 55, 4), did("write", 99, 9),
             did("read", 55, 9)]  # fmt: skip
    assert parse_reads("\n".join(lines), timeline.contents) == ((0, 1), (9, 1))


def test_what_a_driver_writes_before_it_looks_tells_nothing_either(timeline: Timeline) -> None:
    """A boot loader that reads the same before it does look at it."""
    did = "virtio_blk_handle_{} vdev 0x55 req 0x56 sector {} nsectors 1".format
    reset, ready = ("virtio_set_status vdev 0x55 val 0", "virtio_set_status vdev 0x55 val 15")
    kernel = [reset, ready, did("read", 4), did("read", 9), did("write", 4), did("read", 4)]
    assert parse_reads("\n".join(kernel), timeline.contents, {4, 9}) == ((9, 1),)
    assert parse_reads("\n".join([did("read", 4), *kernel]), timeline.contents, {4, 9}) == ((4, 1), (9, 1))


def test_shards_are_disjoint_and_together_everything(timeline: Timeline) -> None:
    parts = [set(plan(timeline, shard=ShardIndex.parse(f"{number}/3")).of) for number in (1, 2, 3)]
    assert set.union(*parts) == set(plan(timeline).of)
    assert sum(map(len, parts)) == len(plan(timeline).of)


def test_the_old_image_is_wrong_once_success_was_announced(timeline: Timeline) -> None:
    """The log had six entries then: what is flushed only later may still be lost."""
    counted = {}
    for name in ("epoch 1, after write 2", "epoch 2", "epoch 2, without write 1"):
        state = timeline.states.find(name)
        result = Result(digest="", state=name, outcome=Outcome.OLD, depth=Depth.BOOT)
        counted[name] = judged(result, state, FACTS).outcome
    assert counted == {"epoch 1, after write 2": Outcome.OLD, "epoch 2": Outcome.BROKEN,
                       "epoch 2, without write 1": Outcome.BROKEN}  # fmt: skip


def test_a_disk_is_broken_if_any_state_that_leads_to_it_is(timeline: Timeline, tmp_path: Path) -> None:
    found = results(tmp_path)
    run(Paper(timeline), timeline, found)
    summary = report.summarise(timeline, plan(timeline), found)
    by_name = {state.name: result for state, result in summary.states}
    shared = by_name["epoch 1, after write 2"], by_name["epoch 2"]
    assert shared[0].digest == shared[1].digest
    assert [result.outcome for result in shared] == [Outcome.OLD, Outcome.BROKEN]
    assert summary.old + summary.new + summary.broken == summary.booted == summary.distinct
    assert summary.left == 0
    assert "epoch 2" in [failure.state for failure in summary.failures]
    assert summary.line.endswith("2.0 states/min")


def test_the_report_holds_every_state_and_the_picture_is_xml(timeline: Timeline, tmp_path: Path) -> None:
    found = results(tmp_path)
    run(Paper(timeline), timeline, found)
    summary = report.summarise(timeline, plan(timeline), found)
    report.write(tmp_path / "powercut", timeline, summary)
    written = json.loads((tmp_path / "powercut.json").read_text("utf-8"))
    assert len(written["states"]) == written["summary"]["enumerated"] == plan(timeline).enumerated
    circles = ET.parse(tmp_path / "powercut.svg").getroot().iterfind(".//{http://www.w3.org/2000/svg}circle")
    dots = {(state.position, state.kind, result.outcome) for state, result in summary.states}
    assert len(list(circles)) == len(dots) + len(Outcome)


@pytest.mark.parametrize("wrong", [
    {"budget": "soon"}, {"shard": "0/2"}, {"shard": "3/2"}, {"shard": "x"}, {"only": ["everything"]}, {"at_once": 0},
])  # fmt: skip
def test_a_campaign_that_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(CallerError):
        campaign.Campaign.parse(reports=tmp_path, **wrong)


def test_bad_input_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["powercut", "--image", str(tmp_path / "none.qcow2"), "--reports", str(tmp_path)]
    refused: tuple[list[str], ...] = ([], ["--budget", "soon"], ["--state", "x", "--shell"])
    assert [main.main([*common, *more]) for more in refused] == [4, 4, 4]
    assert capsys.readouterr().err.count("ERROR: ") == 3


def test_a_campaign_is_read_as_it_is_written(tmp_path: Path) -> None:
    wished = campaign.Campaign.parse(reports=tmp_path, budget="30m", shard="2/4", only=["torn-pages", "flush"])
    assert (wished.budget, wished.shard.number, wished.kinds) == (1800.0, 2, (Kind.FLUSH, Kind.TORN_PAGES))
    assert wished.recording == tmp_path / "powercut"


def test_a_second_cut_has_a_report_of_its_own_beside_that_of_the_first(tmp_path: Path) -> None:
    first = campaign.Campaign.parse(reports=tmp_path, subject="staged")
    second = replace(first, second="epoch 17, after write 2")
    assert (second.recording, second.place.parent) == (first.recording, first.recording)
    assert (first.name, second.name) == ("powercut-staged", "powercut-staged-second-epoch-17-after-write-2")


def test_a_pull_is_asked_for_the_next_upgrade_whatever_was_wished(tmp_path: Path) -> None:
    wished = campaign.Campaign.parse(reports=tmp_path, subject="pull", depth="boot")
    assert (wished.depth, wished.name, wished.recording) == (Depth.NEXT, "powercut-pull", tmp_path / "powercut-pull")


def test_a_suite_cuts_the_pull_and_the_deployment_within_its_time(timeline: Timeline, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first leaves of its part is the second's; each has a recording of its own, made of that image."""
    wished: list[campaign.Campaign] = []

    def survey(factory: MachineFactory, campaign: campaign.Campaign) -> report.Summary:
        wished.append(campaign)
        return report.summarise(timeline, plan(timeline), results(tmp_path))

    monkeypatch.setattr(campaign, "survey", survey)
    factory = cast(MachineFactory, SimpleNamespace(image=SimpleNamespace(sha256="a" * 64)))
    cuts = campaign.cut(factory, tmp_path, "100s")
    assert [one.subject for one in wished] == ["pull", "upgrade"]
    assert [one.recording.name for one in wished] == [f"powercut-pull-{'a' * 12}", f"powercut-{'a' * 12}"]
    assert 29 < wished[0].budget <= 30 and 99 < wished[1].budget <= 100
    with pytest.raises(NotJudged, match=r"100s left out pull: .* upgrade: ") as raised:
        cuts.require_all()
    assert f"{len(plan(timeline).of)} disks" in str(raised.value)


def test_a_sweep_ends_with_what_is_broken(timeline: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first broken state is named, with the option that boots it again; the report is there nevertheless."""
    sweep = Paper(timeline, {"epoch 2, after write 1": Outcome.BROKEN})
    monkeypatch.setattr(campaign, "prepared", lambda factory, wished: contextlib.nullcontext((sweep, timeline)))
    wished = campaign.Campaign.parse(reports=tmp_path, recording=tmp_path)
    factory = cast(MachineFactory, SimpleNamespace(announce=lambda line: None))
    with pytest.raises(GuestFailure, match="epoch 2") as raised:
        campaign.sweep(factory, wished, Console(file=io.StringIO()))
    assert "--state 'epoch 2'" in raised.value.hint
    assert "epoch 2, after write 1" in raised.value.evidence
    assert json.loads((tmp_path / "powercut.json").read_text("utf-8"))["summary"]["smallest"] == _WITHOUT_THAT
    assert f"{_WITHOUT_THAT}: the smallest loss" in raised.value.evidence


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_log_gets_lines_where_a_terminal_has_a_bar(timeline: Timeline, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    sweep, count, shown = Paper(timeline), len(plan(timeline).of), io.StringIO()
    monkeypatch.setattr(campaign, "prepared", lambda factory, wished: contextlib.nullcontext((sweep, timeline)))
    monkeypatch.setattr(campaign, "_LINE_EVERY", 0.0)
    wished = campaign.Campaign.parse(reports=tmp_path, recording=tmp_path)
    campaign.survey(cast(MachineFactory, SimpleNamespace(announce=lambda line: None)), wished,
                    Console(file=shown, force_terminal=is_terminal))  # fmt: skip
    assert (f"power cuts: 1 of {count} disks, 0 broken\n" in shown.getvalue()) is not is_terminal


def test_of_boots_that_end_together_none_is_lost_for_one_that_fails() -> None:
    together = threading.Barrier(2)

    def boot(state: State, digest: str) -> Result:
        together.wait()
        if digest == "1":
            raise HostError("the host is at fault")
        return Result(digest=digest, state=state.name, outcome=Outcome.OLD, depth=Depth.BOOT)

    with ThreadPoolExecutor(2) as pool:
        going = Going(pool, boot, 2)
        for digest in ("1", "2"):
            going.start(State(name=digest, kind=Kind.FLUSH, position=1, kept=(), latest=1), digest)
        time.sleep(0.2)
        ended = going.ended()
        assert next(ended)[1].digest == "2"
        with pytest.raises(HostError):
            next(ended)


def test_nothing_is_made_smaller_once_the_time_is_up(timeline: Timeline, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Paper(timeline)
    run(sweep, timeline, Results(tmp_path / "results.jsonl"))
    monkeypatch.setattr(campaign, "prepared", lambda factory, wished: contextlib.nullcontext((sweep, timeline)))
    wished = campaign.Campaign.parse(reports=tmp_path, recording=tmp_path, budget="0s")
    factory = cast(MachineFactory, SimpleNamespace(announce=pytest.fail))
    summary = campaign.survey(factory, wished, Console(file=io.StringIO()))
    assert summary.failures and not summary.smallest


def test_a_recording_of_another_image_is_refused(tmp_path: Path) -> None:
    image = cast(Image, type("Other", (), {"sha256": "c"}))
    assert recording.load(tmp_path, image, None, "upgrade") is None
    facts = replace(FACTS, offer=Offer(url="http://mirror/", branch="next", commit="1", version="2"))
    (tmp_path / "recording.json").write_text(json.dumps(asdict(facts)), "utf-8")
    with pytest.raises(CallerError, match="other images"):
        recording.load(tmp_path, image, None, "upgrade")
    same = cast(Image, type("Same", (), {"sha256": "a"}))
    assert recording.load(tmp_path, same, None, "upgrade") == Recording(directory=tmp_path, facts=facts)
