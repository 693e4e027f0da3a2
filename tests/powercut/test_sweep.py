"""A sweep boots each distinct disk once, continues where it was killed, and counts verdicts correctly."""

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
from lifsea_testbed.powercut.crash_states import CrashKind, CrashState, CrashStates
from lifsea_testbed.powercut.disk_contents import DiskContents
from lifsea_testbed.powercut.inference import parse_reads
from lifsea_testbed.powercut.operation import CheckDepth
from lifsea_testbed.powercut.recording import Recording, RecordingFacts, Timeline
from lifsea_testbed.powercut.sweep import BootPool, Sweep, plan
from lifsea_testbed.powercut.verdicts import CrashResult, CrashResults, CrashVerdict, Evidence, judged_as
from lifsea_testbed.profiles.profile import UpgradesSection
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.shard import ShardIndex
from lifsea_testbed.upgrade.offer import Offer
from tests.powercut.test_crash_states import BASE, FLUSH, Bytes, filled, logged, read

#: Entry 5 is the first write of epoch 2: without it the old image boots, and success had been announced.
_WITHOUT_THAT = "epoch 2, without write 1"
# The last write before the announcement (entry 5) is only flushed after it.
MADE = [(0, filled(1)), FLUSH, (4, filled(2, 2)), (0, filled(1)), FLUSH, (9, filled(2)), (12, filled(1)), FLUSH]
FACTS = RecordingFacts(subject="upgrade", image="a", next_image="b", profile="reference", instance="i", uuid="u",
                       disk_serial="d", mac="m", layers=("base.qcow2",), offer=None, old="0", new="1", started=2,
                       announced=6, disk_size=len(BASE), qemu="10.0.2")  # fmt: skip


class NoFileSystem:
    """Disks without a file system."""

    def never_used(self, state: CrashState) -> set[int]:
        return set()

    def overwritten_unseen(self, state: CrashState) -> set[int]:
        return set()

    def listing(self, state: CrashState) -> str:
        return "nothing of ostree"


@pytest.fixture
def timeline() -> Timeline:
    log = read(logged(MADE))
    return Timeline(facts=FACTS, log=log, disk=NoFileSystem(), contents=DiskContents(log, Bytes(BASE)),
                    states=CrashStates(log.entries, start=FACTS.started))  # fmt: skip


class Paper(Sweep):
    """A sweep that boots nothing: the new image boots once the write at sector 9 is on the disk."""

    def __init__(self, timeline: Timeline, outcomes: dict[str, CrashVerdict] | None = None,
                 depth: CheckDepth = CheckDepth.BOOT, reads: tuple[tuple[int, int], ...] = (),
                 at_once: int = 1) -> None:
        self.booted: list[str] = []
        self._read, self._at_once = reads, at_once
        self._timeline, self._depth = timeline, depth
        self._outcomes = outcomes or {}

    def boot(self, state: CrashState, digest: str) -> CrashResult:
        self.booted.append(state.name)
        is_new = state.position > 5 and 5 not in dict(state.kept)
        outcome = self._outcomes.get(state.name, CrashVerdict.NEW if is_new else CrashVerdict.OLD)
        return CrashResult(digest=digest, state=state.name, outcome=outcome, depth=self._depth, seconds=30.0,
                           at=30.0 * len(self.booted), reads=self._read)  # fmt: skip


def results(tmp_path: Path) -> CrashResults:
    return CrashResults(tmp_path / "results.jsonl")


def run(sweep: Paper, timeline: Timeline, found: CrashResults) -> None:
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
    deeper = Paper(timeline, depth=CheckDepth.FSCK)
    run(deeper, timeline, results(tmp_path))
    assert len(deeper.booted) == len(plan(timeline).of)
    assert not results(tmp_path).lacks(next(iter(plan(timeline).of)), CheckDepth.BOOT)


def test_no_boot_starts_after_the_deadline(timeline: Timeline, tmp_path: Path) -> None:
    sweep = Paper(timeline)
    assert list(sweep.run(plan(timeline), results(tmp_path), Deadline.after(0.0))) == []


def test_several_states_are_booted_at_once(timeline: Timeline, tmp_path: Path) -> None:
    """No boot ends before as many run as may; every disk that cannot be inferred is booted, once."""
    sweep, boot, meeting = Paper(timeline, at_once=3), Paper(timeline).boot, threading.Barrier(3)

    def crowded(state: CrashState, digest: str) -> CrashResult:
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
        found.add(CrashResult(digest=digest, state="epoch 1", outcome=CrashVerdict.OLD, depth=CheckDepth.BOOT, at=at,
                              seconds=seconds))  # fmt: skip
    assert report.summarise(timeline, plan(timeline), found).seconds == 60.0


def test_a_host_that_fails_says_nothing_about_the_disk(timeline: Timeline, tmp_path: Path) -> None:
    sweep = Paper(timeline)
    died = iter([LaunchError("QEMU was killed by SIGABRT"), TimerStarved("no timer ticks")])
    boot = sweep.boot

    def fragile(state: CrashState, digest: str) -> CrashResult:
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
    assert [result.outcome for result in same] == [CrashVerdict.NEW, CrashVerdict.NEW]
    assert {result.how for result in same} == {Evidence.BOOTED, Evidence.INFERRED}
    assert all(result.like in sweep.booted for result in known.values() if result.how is Evidence.INFERRED)


def test_the_sample_of_confirmations_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample stays the same when some of it was confirmed before; results of boots are not in it."""
    monkeypatch.setattr(inference, "_MOST", 3)
    known_by = [Evidence.BOOTED, Evidence.INFERRED, Evidence.CONFIRMED, *[Evidence.INFERRED] * 5]
    found = [CrashResult(digest=f"{20 * number:08x}", state="epoch 1", outcome=CrashVerdict.OLD,
                         depth=CheckDepth.BOOT, how=how) for number, how in enumerate(known_by)]  # fmt: skip
    found += [replace(found[1], digest=f"{20 * number + 1:08x}") for number in range(5)]
    assert [result.digest for result in inference.unconfirmed(reversed(found))] == ["00000014", "0000003c"]


def test_contradictions_are_counted(timeline: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_ONE_IN", 1)
    sweep = Paper(timeline, {"epoch 2, after write 1": CrashVerdict.BROKEN}, reads=((0, 1), (4, 2), (9, 1)))
    found = results(tmp_path)
    run(sweep, timeline, found)
    assert Counter(result.how for result in found.of.values())[Evidence.CONTRADICTED] == 1
    assert report.summarise(timeline, plan(timeline), found).contradicted == 1


def test_reads_are_parsed_from_the_trace(timeline: Timeline) -> None:
    lines = ["virtio_blk_handle_read vdev 0x55 req 0x56 sector 3 nsectors 3", "something else sector 9 nsectors 1",
             "virtio_blk_handle_read vdev 0x55 req 0x56 sector 12 nsectors 1"]  # fmt: skip
    assert parse_reads("\n".join(lines), timeline.contents) == ((4, 2), (12, 1))


def test_reads_of_own_writes_are_left_out(timeline: Timeline) -> None:
    """Unless it read it before, or wrote it to another disk."""
    did = "virtio_blk_handle_{} vdev 0x{} req 0x56 sector {} nsectors 1".format
    lines = [did("read", 55, 0), did("write", 55, 0), did("write", 55, 4), did("read", 55, 4), did("write", 99, 9),
             did("read", 55, 9)]  # fmt: skip
    assert parse_reads("\n".join(lines), timeline.contents) == ((0, 1), (9, 1))


def test_reads_that_the_driver_overwrites_unused_are_left_out(timeline: Timeline) -> None:
    """A boot loader that reads the same sectors before does use them."""
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
        result = CrashResult(digest="", state=name, outcome=CrashVerdict.OLD, depth=CheckDepth.BOOT)
        counted[name] = judged_as(result, state, FACTS).outcome
    assert counted == {"epoch 1, after write 2": CrashVerdict.OLD, "epoch 2": CrashVerdict.BROKEN,
                       "epoch 2, without write 1": CrashVerdict.BROKEN}  # fmt: skip


def test_a_disk_is_broken_if_any_state_that_leads_to_it_is(timeline: Timeline, tmp_path: Path) -> None:
    found = results(tmp_path)
    run(Paper(timeline), timeline, found)
    summary = report.summarise(timeline, plan(timeline), found)
    by_name = {state.name: result for state, result in summary.states}
    shared = by_name["epoch 1, after write 2"], by_name["epoch 2"]
    assert shared[0].digest == shared[1].digest
    assert [result.outcome for result in shared] == [CrashVerdict.OLD, CrashVerdict.BROKEN]
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
    assert len(list(circles)) == len(dots) + len(CrashVerdict)


@pytest.mark.parametrize("wrong", [
    {"budget": "soon"}, {"operation": "initrd"}, {"shard": "0/2"}, {"shard": "3/2"}, {"shard": "x"},
    {"only": ["everything"]}, {"budget": "0m"},
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(CallerError):
        campaign.SweepOptions.parse(reports=tmp_path, **wrong)


def test_bad_input_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["powercut", "--image", str(tmp_path / "none.qcow2"), "--reports", str(tmp_path)]
    refused = {"": "no such image", "--budget 5min": "--budget 5min: not a duration (hint: 90s, 30m or 2h)",
               "--only tear": "--only tear: unknown kind of crash state (hint: one of flush, prefix, without, ",
               "--state x --shell": "terminal"}  # fmt: skip
    for options, message in refused.items():
        assert main.main([*common, *options.split()]) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("ERROR: ") and message in line


def test_options_are_parsed(tmp_path: Path) -> None:
    options = campaign.SweepOptions.parse(reports=tmp_path, budget="30m", shard="2/4", only=["torn-pages", "flush"])
    assert (options.budget, options.shard.number, options.kinds) == (1800.0, 2, (CrashKind.FLUSH, CrashKind.TORN_PAGES))
    assert options.recording == tmp_path / "powercut"


def test_a_second_cut_has_a_report_of_its_own_beside_that_of_the_first(tmp_path: Path) -> None:
    first = campaign.SweepOptions.parse(reports=tmp_path, operation="staged")
    second = replace(first, second="epoch 17, after write 2")
    assert (second.recording, second.directory.parent) == (first.recording, first.recording)
    assert (first.name, second.name) == ("powercut-staged", "powercut-staged-second-epoch-17-after-write-2")


def test_a_pull_is_always_checked_by_the_next_upgrade(tmp_path: Path) -> None:
    options = campaign.SweepOptions.parse(reports=tmp_path, operation="pull", depth="boot")
    assert (options.depth, options.name) == (CheckDepth.NEXT, "powercut-pull")
    assert options.recording == tmp_path / "powercut-pull"


@pytest.mark.parametrize("tool", ["ostree", "rpm-ostree"])
def test_a_suite_cuts_the_pull_and_the_deployment_within_its_time(timeline: Timeline, tmp_path: Path, tool: str,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """The second operation gets the time that the first one leaves; each has a recording of its own for that image.

    A tool that pulls and deploys in one step has no pull of its own to be cut.
    """
    options: list[campaign.SweepOptions] = []

    def survey(factory: MachineFactory, campaign: campaign.SweepOptions) -> report.SweepSummary:
        options.append(campaign)
        return report.summarise(timeline, plan(timeline), results(tmp_path))

    monkeypatch.setattr(campaign, "survey", survey)
    profile = SimpleNamespace(upgrades=UpgradesSection(tool=tool))
    factory = cast(MachineFactory, SimpleNamespace(image=SimpleNamespace(sha256="a" * 64), profile=profile))
    cuts = campaign.sweep_for_suite(factory, tmp_path, "100s")
    if tool == "rpm-ostree":
        assert [one.operation for one in options] == ["upgrade"]
        return
    assert [one.operation for one in options] == ["pull", "upgrade"]
    assert [one.recording.name for one in options] == [f"powercut-pull-{'a' * 12}", f"powercut-{'a' * 12}"]
    assert 29 < options[0].budget <= 30 and 99 < options[1].budget <= 100
    with pytest.raises(NotJudged, match=r"100s left out pull: .* upgrade: ") as raised:
        cuts.require_all()
    assert f"{len(plan(timeline).of)} disks" in str(raised.value)


def test_a_sweep_raises_broken_states(timeline: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the first broken state and the option that boots it again; the report is written nevertheless."""
    sweep = Paper(timeline, {"epoch 2, after write 1": CrashVerdict.BROKEN})
    monkeypatch.setattr(campaign, "open_sweep", lambda factory, options: contextlib.nullcontext((sweep, timeline)))
    options = campaign.SweepOptions.parse(reports=tmp_path, recording=tmp_path)
    factory = cast(MachineFactory, SimpleNamespace(announce=lambda line: None))
    with pytest.raises(GuestFailure, match="epoch 2") as raised:
        campaign.sweep(factory, options, Console(file=io.StringIO()))
    assert "--state 'epoch 2'" in raised.value.hint
    assert "epoch 2, after write 1" in raised.value.evidence
    assert json.loads((tmp_path / "powercut.json").read_text("utf-8"))["summary"]["smallest"] == _WITHOUT_THAT
    assert f"{_WITHOUT_THAT}: the smallest loss" in raised.value.evidence


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_log_gets_lines_where_a_terminal_has_a_bar(timeline: Timeline, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    sweep, count, shown = Paper(timeline), len(plan(timeline).of), io.StringIO()
    monkeypatch.setattr(campaign, "open_sweep", lambda factory, options: contextlib.nullcontext((sweep, timeline)))
    monkeypatch.setattr(campaign, "_LINE_EVERY", 0.0)
    options = campaign.SweepOptions.parse(reports=tmp_path, recording=tmp_path)
    campaign.survey(cast(MachineFactory, SimpleNamespace(announce=lambda line: None)), options,
                    Console(file=shown, force_terminal=is_terminal))  # fmt: skip
    assert (f"power cuts: 1 of {count} disks, 0 broken\n" in shown.getvalue()) is not is_terminal


def test_a_boot_that_fails_loses_no_result_of_another() -> None:
    together = threading.Barrier(2)

    def boot(state: CrashState, digest: str) -> CrashResult:
        together.wait()
        if digest == "1":
            raise HostError("the host is at fault")
        return CrashResult(digest=digest, state=state.name, outcome=CrashVerdict.OLD, depth=CheckDepth.BOOT)

    with ThreadPoolExecutor(2) as threads:
        pool = BootPool(threads, boot, 2)
        for digest in ("1", "2"):
            pool.start(CrashState(name=digest, kind=CrashKind.FLUSH, position=1, kept=(), latest=1), digest)
        time.sleep(0.2)
        ended = pool.completed()
        assert next(ended)[1].digest == "2"
        with pytest.raises(HostError):
            next(ended)


def test_nothing_is_shrunk_once_the_time_is_up(timeline: Timeline, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Paper(timeline)
    run(sweep, timeline, CrashResults(tmp_path / "results.jsonl"))
    monkeypatch.setattr(campaign, "open_sweep", lambda factory, options: contextlib.nullcontext((sweep, timeline)))
    options = replace(campaign.SweepOptions.parse(reports=tmp_path, recording=tmp_path), budget=0.0)
    factory = cast(MachineFactory, SimpleNamespace(announce=pytest.fail))
    summary = campaign.survey(factory, options, Console(file=io.StringIO()))
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
