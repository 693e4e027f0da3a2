"""Boot time: marks and phases, alignment of clocks, budgets, attribution, charts."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from lifsea_testbed.boottime import (
    attribution,
    budget,
    campaign,
    charts,
    kernel_only,
    marks,
    observation,
    observe,
)
from lifsea_testbed.boottime.attribution import GrowthKind
from lifsea_testbed.boottime.marks import BootMark
from lifsea_testbed.boottime.observation import BootNumber, Exchange, align
from lifsea_testbed.cli.main import main
from lifsea_testbed.errors import NotJudged, Reason, WaitTimedOut
from lifsea_testbed.guest.boot import UnitTimes, parse_units
from lifsea_testbed.perf.metric import Measure
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import BootSection
from lifsea_testbed.qemu.instruction_counter import BOOT_SECTOR, Counts, Stamp
from lifsea_testbed.support.protocols import ConsoleLine
from tests.support.boots import KVM, TCG, TIMES, boot, unit

CONSOLE = (
    (0.5, "Welcome to GRUB![    0.000000] Linux version 6.1"), (1.0, "[    0.000000] Command line: ro"),
    (1.5, "[    0.513370] Run /sbin/init as init process"), (1.75, "[    0.700000] systemd[1]: systemd 257 running"),
)  # fmt: skip
SHOWN = """\
Id=init.service
InactiveExitTimestampMonotonic=1500000
ActiveEnterTimestampMonotonic=2500000
CPUUsageNSec=300000000

Id=never.service
InactiveExitTimestampMonotonic=0
ActiveEnterTimestampMonotonic=0
CPUUsageNSec=[not set]

CPUUsageNSec=18446744073709551615
Id=multi-user.target
InactiveExitTimestampMonotonic=2600000
ActiveEnterTimestampMonotonic=2600000
"""
INITCALLS = """\
[    0.101000] calling  net_init+0x0/0x40 @ 1
[    0.102000] initcall net_init+0x0/0x40 returned 0 after 900 usecs
[    0.103000] initcall loop_init+0x0/0x1b0 returned 0 after 40 usecs
[    0.358312] VFS: Cannot open root device "" or unknown-block(0,0): error -6
[    0.360000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
"""


class Unfinished:
    """A machine whose boot does not finish, and whose kubelet is not healthy."""

    def __init__(self) -> None:
        self.boot = SimpleNamespace(counts=None, power_on=0.0)
        self.guest = SimpleNamespace(kubelet=SimpleNamespace(health=lambda: None))
        self.waited: list[str] = []

    def run(self, command: str, *, check: bool, within: float) -> None:
        self.waited.append("finished")
        raise WaitTimedOut("the boot does not finish")

    def wait_until(self, question: object, what: str, *, within: float) -> None:
        self.waited.append(what)
        raise WaitTimedOut(what)


def test_a_mark_that_is_not_reached_in_time_is_left_out() -> None:
    machine: Any = Unfinished()
    factory: Any = SimpleNamespace(profile=profiles.load("reference"))
    observe._wait_until_finished(factory, machine)
    assert observe._late_marks(factory, machine, BootMark.KUBELET) == {}
    assert machine.waited == ["finished", "the kubelet is healthy"]


@pytest.mark.parametrize(("healthy", "waits"), [
    ([True, True, True], [BootMark.KUBELET] * 3),
    ([True, False, False], [BootMark.KUBELET, BootMark.KUBELET, BootMark.FINISHED]),
])  # fmt: skip
def test_cold_boots_wait_for_the_kubelet_as_long_as_there_is_one(
    monkeypatch: pytest.MonkeyPatch, healthy: list[bool], waits: list[BootMark]
) -> None:
    until: list[BootMark] = []

    def boots(factory: object, name: str, counter: object, *, until_mark: BootMark) -> list[observation.Observation]:
        until.append(until_mark)
        seen = boot(counted=False)
        return [replace(seen, marks={**seen.marks, BootMark.KUBELET: 6.0} if healthy[len(until) - 1] else seen.marks)]

    monkeypatch.setattr(observe, "boots", lambda *found, until: boots(*found, until_mark=until))
    factory: Any = SimpleNamespace(accelerator=KVM)
    assert len(campaign.cold_boots(factory, 3).seen) == 3
    assert until == waits


@pytest.mark.parametrize(("speed", "shown"), [(2.3, r"2\.3 M"), (4800.0, "4800"), (20000.0, "20000")])
def test_kvm_at_another_pace_than_an_ecs_g7_judges_nothing_by_the_clock(speed: float, shown: str) -> None:
    with pytest.raises(NotJudged, match=shown) as caught:
        budget.judge([boot()] * 3, BootSection(promised=9.0), replace(KVM, speed=speed))
    assert caught.value.reason is Reason.HOST


def test_phases_add_up_to_the_whole() -> None:
    found = marks.phases(TIMES)
    assert [phase.name for phase in found] == ["firmware", "boot-loader", "kernel", "init", "user-space"]
    assert sum(phase.duration for phase in found) == TIMES[BootMark.USER_DATA]
    assert sum(boot().instructions().values()) == boot().progress[BootMark.USER_DATA].counts.work


@pytest.mark.parametrize("missing", [*marks.PHASES][:-1])
def test_a_mark_that_was_not_seen_leaves_no_gap(missing: BootMark) -> None:
    found = marks.phases({mark: at for mark, at in TIMES.items() if mark is not missing})
    assert marks.PHASES[missing] not in [phase.name for phase in found]
    assert sum(phase.duration for phase in found) == TIMES[BootMark.USER_DATA]


def test_marks_are_found_on_the_console() -> None:
    lines = [ConsoleLine(at=at, text=text) for at, text in CONSOLE]
    assert marks.from_console(lines) == {BootMark.FIRST_BYTE: 0.5, BootMark.KERNEL: 1.0, BootMark.INIT: 1.5,
                                         BootMark.SYSTEMD: 1.75}  # fmt: skip
    assert marks.from_console([]) == {}


def test_marks_of_a_counter_are_exact_to_the_byte() -> None:
    output = "".join(f"{text}\n" for _, text in CONSOLE).encode()
    stamps = [Stamp(at=0.1, counts=Counts(), value=BOOT_SECTOR)]
    stamps += [Stamp(at=1 + index, counts=Counts(), value=byte) for index, byte in enumerate(output)]
    record = marks.from_record(stamps)
    found = {mark: stamp.at - 1 for mark, stamp in record.items() if mark is not BootMark.BOOT_LOADER}
    places = {BootMark.KERNEL: b"[    0.000000] Linux", BootMark.INIT: b"Run /sbin/init",
              BootMark.SYSTEMD: b"systemd[1]: "}  # fmt: skip
    assert found == {BootMark.FIRST_BYTE: 0, **{mark: output.index(text) for mark, text in places.items()}}
    assert record[BootMark.BOOT_LOADER].at == 0.1


def test_uefi_names_the_boot_loader_that_it_starts() -> None:
    lines = ['BdsDxe: loading Boot0001 "a" from PciRoot(0x0)', 'BdsDxe: starting Boot0001 "a" from PciRoot(0x0)',
             "BdsDxe: failed to start Boot0001", 'x BdsDxe: starting Boot0003 "b" from PciRoot(0x0)',
             "[    0.000000] Linux version 6.1", "[    0.000000] Command line: x"]
    found = marks.from_console([ConsoleLine(at=float(at), text=text) for at, text in enumerate(lines)])
    assert found == {BootMark.FIRST_BYTE: 0.0, BootMark.BOOT_LOADER: 3.0, BootMark.KERNEL: 5.0}
    output = "\n".join(lines).encode()
    record = marks.from_record(Stamp(at=float(index), counts=Counts(), value=byte)
                               for index, byte in enumerate(output))  # fmt: skip
    assert record[BootMark.BOOT_LOADER].at == output.index(b"BdsDxe: starting Boot0003")
    assert [phase.name for phase in marks.phases(found)] == ["firmware", "boot-loader"]


@given(some.floats(-100, 100), some.lists(some.tuples(some.floats(0, 0.1), some.floats(0, 0.1)), min_size=1))
def test_the_true_offset_lies_within_the_error(offset: float, delays: list[tuple[float, float]]) -> None:
    exchanges = [Exchange(before=place + offset - to, guest=place, after=place + offset + back)
                 for place, (to, back) in enumerate(delays)]  # fmt: skip
    found = align(exchanges)
    assert abs(found.offset - offset) <= found.error + 1e-9
    assert found.error <= min(to + back for to, back in delays) / 2 + 1e-9


def test_clocks_that_drifted_apart_are_aligned_by_the_quickest_exchange() -> None:
    exchanges = [Exchange(before=10.0, guest=0.0, after=10.1), Exchange(before=21.0, guest=10.0, after=21.02)]
    found = align(exchanges)
    assert found.host(10.0) == pytest.approx(21.01) and found.error == pytest.approx(0.01)


def test_units_that_were_started_are_listed() -> None:
    first, last = parse_units(SHOWN)
    assert first == UnitTimes(name="init.service", started=1.5, active=2.5, processor=0.3)
    assert (last.name, last.processor) == ("multi-user.target", 0.0)


def test_an_observation_comes_back_from_its_file(tmp_path: Path) -> None:
    seen = [boot(programs={"/sbin/init": 7}, units=[unit("a.service", 0.1)]), boot(counted=False)]
    observation.save(seen, tmp_path / "boots.jsonl")
    assert observation.load(tmp_path / "boots.jsonl") == seen


@pytest.mark.parametrize(("promised", "kept"), [(4.0, True), (3.9, False)])
def test_real_hardware_is_judged_by_the_clock(promised: float, kept: bool) -> None:
    assert budget.judge([boot()] * 3, BootSection(promised=promised), KVM).kept is kept


@pytest.mark.parametrize(("instructions", "idle", "kept"), [(10e9, 0.5, True), (3.9e9, 0.0, False), (3.9e9, 9, False)])
def test_emulation_is_judged_by_what_is_executed(instructions: float, idle: float, kept: bool) -> None:
    promised = BootSection(promised=2.0, instructions=instructions)
    assert budget.judge([boot(idle=idle)] * 3, promised, TCG).kept is kept


@pytest.mark.parametrize(("promised", "seen", "why"), [
    (BootSection(), boot(), "has no boot.instructions"),
    (BootSection(instructions=5e9), boot(counted=False), "not counted"),
    (BootSection(promised=2.0, instructions=5e9), boot(idle=3.0), "halted for 3.00 s"),
])  # fmt: skip
def test_what_emulation_cannot_judge_is_not_judged(promised: BootSection, seen: observation.Observation,
                                                   why: str) -> None:
    with pytest.raises(NotJudged, match=why):
        budget.judge([seen] * 3, promised, TCG)


def test_what_grew_is_named() -> None:
    old = [boot(programs={"/sbin/init": 100 + n, "sh /burns": 0}, units=[unit("a.service", 0.1)]) for n in range(5)]
    new = [boot(programs={"/sbin/init": 101 + n, "sh /burns": 9 + n}, units=[unit("burns.service", 0.2)])
           for n in range(5)]  # fmt: skip
    named = {growth.kind: growth.name for growth in attribution.culprits(attribution.suspects(old, new))}
    assert named == {GrowthKind.PROGRAM: "sh /burns", GrowthKind.UNIT: "burns.service"}
    assert attribution.culprits(attribution.suspects(old, old)) == []


def test_initcalls_are_read_and_compared() -> None:
    old, new = kernel_only.parse(INITCALLS), kernel_only.parse(INITCALLS.replace("after 40", "after 4000"))
    assert old.initcalls == {"net_init": 900, "loop_init": 40} and old.until_root == 358312
    assert [(growth.name, growth.by) for growth in kernel_only.differences(old, new)] == [("loop_init", 3960)]
    assert kernel_only.differences(old, old) == []
    with pytest.raises(NotJudged):
        kernel_only.parse("[    0.1] Kernel panic")


def test_each_metric_is_compared() -> None:
    compared = campaign.comparisons([boot()] * 5, [boot(rate=1.05e9)] * 5, floor=0.01)
    assert [str(judged.change) for _, judged in compared.judged] == ["regressed", "unchanged"]


def test_figures_have_a_place_in_the_history() -> None:
    measure = Measure()
    campaign.ColdBoots(seen=[boot()], accelerator=KVM).report(measure)
    taken = {figure.metric.name: figure.value for figure in measure.taken}
    assert taken["boot"] == 4.0 and taken["boot-instructions"] == 4e9 and taken["boot-to-finished"] == 5.0
    for whole in ("boot", "boot-instructions"):
        assert sum(value for name, value in taken.items() if name.startswith(f"{whole}/")) == taken[whole]


def test_hostile_unit_names_add_nothing_to_a_chart() -> None:
    hostile = "</text><script>alert(1)</script>.service"
    seen = boot(units=[unit(hostile, 0.4)], programs={hostile: 5})
    grown = attribution.suspects([boot()] * 5, [seen] * 5)
    for drawn in (charts.boot(seen), charts.boot(boot(counted=False)), charts.difference(grown, "a & b")):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawn).iter()}
        assert tags <= {"svg", "rect", "text", "title", "line", "polyline"}
    assert f"program {hostile}"[:20] in "".join(ElementTree.fromstring(charts.difference(grown, "")).itertext())


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two factories with observations made beforehand, the second one slower; neither image has a kernel to run."""
    images = [SimpleNamespace(name=name, image=None, emulator=None, say=print) for name in ("old", "new")]
    rates = {"old": 1e9, "new": 1.1e9}

    def refuse(image: object, emulator: object) -> None:
        raise NotJudged("no boot entry", Reason.HOST)

    monkeypatch.setattr(observe, "counting", lambda factory: contextlib.nullcontext())
    monkeypatch.setattr(observe, "boots", lambda one, *_, **__: [boot(image=one.name, rate=rates[one.name])])
    monkeypatch.setattr(kernel_only, "run", refuse)
    return images


def test_a_campaign_reports_what_got_slower(factories: list[Any], tmp_path: Path) -> None:
    options = campaign.BootTimeOptions(boots=5, floor=0.01, until=BootMark.FINISHED, which=(BootNumber.FIRST,),
                                       initcalls=True, reports=tmp_path)  # fmt: skip
    lines = list(campaign.run(factories, options))
    assert [line.partition(",")[0] for line in lines[:4]] == ["old", "new", "new", "old"]
    assert any(line.startswith("first boots: boot-instructions regressed: 4e+09 → 4.4e+09") for line in lines)
    assert "initcalls not judged: no boot entry" in lines
    assert any(line.startswith("grew most: phase user-space") for line in lines)
    assert len(observation.load(tmp_path / "boots.jsonl")) == 10
    assert {path.name for path in tmp_path.glob("*.svg")} == {"boot-1.svg", "boot-2.svg", "difference.svg"}


def test_no_boot_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boot-time", "--image", "none.qcow2", "--boots", "0"]) == 4
    assert "--boots 0: not a whole number from 1 on" in capsys.readouterr().err
