"""Figures in runs of pytest: from the test, through workers, into files and the verdict; nothing is booted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.errors import CallerError
from lifsea_testbed.perf.history import History
from lifsea_testbed.perf.metric import Better, BuildKind, Measure
from tests.support.boot_sector import raw_image

SUITE = '''
import pytest
from lifsea_testbed import claim
from lifsea_testbed.errors import NotJudged, Reason

@pytest.fixture
def profile(bench):
    return bench.profile

@claim("boots-to-ready")
@pytest.mark.parametrize("boot", range(10))
def test_boot_time(measure, boot):
    measure("boot", FACTOR * (2 + boot / 1000), unit="s", better="lower", definition="Until ready.")
    measure("packages", 203, unit="packages", better="lower", exact=True)

def test_that_fails(measure):
    measure("late", 9.5, unit="s", better="lower")
    raise NotJudged("emulated", Reason.HOST)
'''
PROFILE = """
extends = "reference"
name = "quick"
claims = ["boots-to-ready"]
[budgets]
boot = 2.05
"""


@pytest.fixture
def place(pytester: pytest.Pytester) -> pytest.Pytester:
    (pytester.path / "quick.toml").write_text(PROFILE)
    return pytester


def judge(place: pytest.Pytester, version: str, factor: float, *options: str) -> pytest.RunResult:
    """Runs the suite on an image of that version whose boots take two seconds times the factor."""
    place.makepyfile(test_suite=SUITE.replace("FACTOR", str(factor)))
    image = raw_image(place.path / f"{version}.raw", version)
    return place.runpytest_subprocess(
        "--image", str(image), "--profile", "quick.toml", "--accel", "tcg", "-p", "no:cacheprovider",
        "--image-version", version, *options,
    )  # fmt: skip


def lines(place: pytest.Pytester) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place.path / "reports/metrics.jsonl").read_text().splitlines()]


def boots(place: pytest.Pytester) -> list[float]:
    return [line["value"] for line in lines(place) if line["metric"]["name"] == "boot"]


BOOTS = [2 + boot / 1000 for boot in range(10)]


def test_figures_are_written_for_later(place: pytest.Pytester) -> None:
    result = judge(place, "3.1", 1.0, "--host-class", "rack 1", "--revision", "abc")
    assert result.ret == 0
    assert boots(place) == BOOTS
    assert [line["number"] for line in lines(place)] == list(range(1, 22))
    first = lines(place)[0]
    assert first["budget"] == 2.05
    assert (first["build"]["workers"], first["build"]["processor"]) == (1, "max") and first["build"]["memory"] >= 1024
    assert {"image_version": "3.1", "revision": "abc", "host_class": "rack 1", "profile": "quick",
            "accelerator": "tcg", "kind": "build"}.items() <= first["build"].items()  # fmt: skip
    assert lines(place)[-1]["metric"]["name"] == "late"


def test_figures_come_through_workers(place: pytest.Pytester) -> None:
    result = judge(place, "3.1", 1.0, "-n", "2", "--history", "history.db", "--perf-release")
    assert result.ret == 0
    assert sorted(boots(place)) == BOOTS
    result.stdout.fnmatch_lines(["*boot not compared (the history has no release in this setting)*"])
    with History(str(place.path / "history.db")) as history:
        assert len(list(history.samples())) == 21
        assert [(each.kind, each.workers) for each in history.builds()] == [(BuildKind.RELEASE, 2)]


def test_the_gate_compares_with_the_last_release(place: pytest.Pytester) -> None:
    """Slower by 30 % and over its budget, an image fails the gate; without the gate, it is only reported."""
    options = ["--history", "history.db", "--host-class", "rack 1"]
    assert judge(place, "3.0", 1.0, *options, "--perf-release").ret == 0
    shown, gated = (judge(place, "3.2", 1.3, *options, *gate) for gate in ([], ["--perf-gate"]))
    shown.stdout.fnmatch_lines(["*boot regressed: 2.0045 → 2.60585 s (+30.0%, *(against 3.0*)", "verdict: pass - *"])
    gated.stdout.fnmatch_lines(["verdict: fail - *; boot regressed: *; boot over budget: * (reports/gate.json)"])
    assert (shown.ret, gated.ret) == (0, 1)
    findings = json.loads((place.path / "reports/run.json").read_text())["findings"]
    assert any(line.startswith("boot regressed: 2.0045 → 2.60585 s") for line in findings)


@pytest.mark.parametrize(("options", "complaint"), [
    (["--perf-gate"], "ERROR: --perf-gate: needs a history*(hint: --history FILE)"),
    (["--history", "/nonexistent/history.db"], "ERROR: --history /nonexistent/history.db: *(hint: *"),
    (["--history", "3.1.raw"], "ERROR: --history 3.1.raw: *not a database*(hint: *"),
])  # fmt: skip
def test_a_history_that_cannot_be_used_is_reported_before_anything_runs(
    place: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str], complaint: str
) -> None:
    (place.path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(place.path / "tmp"))
    result = judge(place, "3.1", 1.0, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([complaint])
    assert [line for line in result.outlines if line] == []
    assert list((place.path / "tmp").iterdir()) == []


def test_a_suite_without_figures_leaves_no_file(place: pytest.Pytester) -> None:
    place.makepyfile(test_suite="def test_nothing(): pass")
    image = raw_image(place.path / "disk.raw")
    place.runpytest_subprocess("--image", str(image), "--profile", "quick.toml", "--accel", "tcg")
    assert not (place.path / "reports/metrics.jsonl").exists()


@pytest.mark.parametrize(("name", "value"), [
    ("Boot time", 1.0), ("", 1.0), ("a/b/c", 1.0), ("-x", 1.0), ("boot", float("nan")), ("boot", float("inf")),
])  # fmt: skip
def test_what_is_no_figure_is_refused(name: str, value: float) -> None:
    with pytest.raises(CallerError):
        Measure()(name, value, unit="s", better="lower")


@pytest.mark.parametrize("text", ["\x00", "s\x1b[2J", "s" * 5000])
def test_units_and_definitions_are_plain_text(text: str) -> None:
    with pytest.raises(CallerError):
        Measure()("boot", 1.0, unit=text, better="lower")
    with pytest.raises(CallerError):
        Measure()("boot", 1.0, unit="s", better="lower", definition=text)


def test_a_figure_survives_its_way_through_json(tmp_path: Path) -> None:
    measure = Measure()
    measure("boot/kernel", 1, unit="s", better="higher", definition="d", exact=True)
    (taken,) = measure.taken
    assert type(taken).from_fields(json.loads(json.dumps(taken.fields()))) == taken
    assert (taken.value, taken.metric.better) == (1.0, Better.HIGHER)


UNUSED = """
import sys
def test_one(measure):
    measure("boot", 2, unit="s", better="lower")
    assert not {"sqlalchemy", "alembic", "numpy", "scipy", "otava"} & set(sys.modules)
"""


def test_without_an_image_figures_go_nowhere_and_nothing_heavy_is_loaded(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(UNUSED)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    assert not (pytester.path / "reports").exists()
