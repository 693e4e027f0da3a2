"""Runs on several workers of xdist, and in shards: who makes what, and what becomes of it when a worker dies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from lifsea_testbed.plugin import shards
from tests.support.quick import lay_out

CONFTEST = """
import os
import pathlib
import pytest
from lifsea_testbed import MachineSpec

def note(text):
    with open("story.txt", "a") as file:
        file.write(f"{text} {os.environ.get('PYTEST_XDIST_WORKER', 'main')}\\n")

@pytest.fixture(scope="session")
def upgraded(bench):
    note("upgraded")
    with bench.create(MachineSpec(name="upgraded-machine")) as machine:
        yield machine

@pytest.fixture(scope="session")
def rolled_back(upgraded):
    note("rolled_back")
    return upgraded

@pytest.fixture(scope="session")
def rebooted(bench):
    note("rebooted")
    with bench.create(MachineSpec(name="rebooted-machine")) as machine:
        yield machine
"""
SUITE = """
import pytest
from conftest import note
from lifsea_testbed import claim

@claim("boots-to-ready")
@pytest.mark.parametrize("number", range(2))
def test_upgrade(upgraded, number):
    pass

@claim("boots-to-ready")
def test_reboot(rebooted):
    pass

@claim("no-sshd")
@pytest.mark.parametrize("number", range(4))
def test_own(own_machine, number):
    note("own")

@claim("no-python")
def test_shared(machine):
    pass

@claim("shell-kept")
@pytest.mark.parametrize("number", range(2))
def test_back(rolled_back, number):
    pass

@claim("boots-to-ready")
def test_reboot_again(rebooted):
    pass
"""
DYING = """
import os
import pathlib
import signal
from lifsea_testbed import claim

@claim("boots-to-ready")
def test_dies(own_machine):
    pathlib.Path("victim").write_text(str(own_machine.boot.process.pid))
    os.kill(os.getpid(), signal.SIGKILL)

@claim("no-sshd")
def test_one(own_machine):
    pass

@claim("no-python")
def test_two(own_machine):
    pass

@claim("shell-kept")
def test_three(own_machine):
    pass
"""
Start = Callable[..., pytest.RunResult]


@pytest.fixture
def start(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs a suite on the quick guest; temporary files go below its directory."""
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))

    def run(suite: str, *options: str, conftest: str = "") -> pytest.RunResult:
        always = lay_out(pytester.path, suite, **({"conftest": conftest} if conftest else {}))
        return pytester.runpytest_subprocess(*always, *options)

    return run


def gate(place: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((place / "reports/gate.json").read_text())
    return document


def judged(document: dict[str, Any]) -> list[str]:
    return [test["id"] for claim in document["claims"] for test in claim["tests"]]


def story(place: Path) -> tuple[Counter[str], set[str]]:
    """How often each fixture was made, and which workers ran tests with machines of their own."""
    lines = [line.split() for line in (place / "story.txt").read_text().splitlines()]
    return Counter(what for what, _ in lines), {worker for what, worker in lines if what == "own"}


def assert_nothing_is_left(place: Path) -> None:
    assert list((place / "tmp").iterdir()) == []
    assert [child for child in psutil.Process().children(recursive=True) if child.name().startswith("qemu")] == []


@pytest.mark.boots
def test_each_scenario_is_brought_about_once_and_machines_are_spread(start: Start, pytester: pytest.Pytester) -> None:
    result = start(SUITE, "-n", "2", conftest=CONFTEST)
    result.assert_outcomes(passed=11)
    made, workers = story(pytester.path)
    assert made == {"upgraded": 1, "rolled_back": 1, "rebooted": 1, "own": 4}
    assert workers == {"gw0", "gw1"}
    assert gate(pytester.path)["verdict"] == "pass" and result.ret == 0
    assert [test for test in judged(gate(pytester.path)) if "@" in test] == []
    assert_nothing_is_left(pytester.path)


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize(("mode", "times"), [
    ("load", (1, 2)), ("loadscope", (1, 1)), ("loadfile", (1, 1)), ("loadgroup", (1, 1)), ("worksteal", (1, 2)),
    ("each", (2, 2)),
])  # fmt: skip
def test_every_mode_of_distribution_comes_to_the_same_verdict(
    start: Start, pytester: pytest.Pytester, mode: str, times: tuple[int, int]
) -> None:
    """A scenario is made at most once a worker, and once in all where the mode lets tests be kept together."""
    tx = ["--tx", "2*popen"] if mode == "each" else ["-n", "2"]
    result = start(SUITE, *tx, "--dist", mode, conftest=CONFTEST)
    result.assert_outcomes(passed=22 if mode == "each" else 11)
    made, _ = story(pytester.path)
    assert all(times[0] <= made[name] <= times[1] for name in ("upgraded", "rebooted")), made
    assert gate(pytester.path)["verdict"] == "pass"
    assert_nothing_is_left(pytester.path)


@pytest.mark.boots
def test_a_worker_that_dies_takes_its_machines_with_it_and_the_run_goes_on(
    start: Start, pytester: pytest.Pytester
) -> None:
    result = start(DYING, "-n", "2")
    assert result.ret == 6
    assert not psutil.pid_exists(int((pytester.path / "victim").read_text()))
    statuses = {claim["id"]: claim["status"] for claim in gate(pytester.path)["claims"]}
    assert [statuses[claim] for claim in ("no-sshd", "no-python", "shell-kept")] == ["passed"] * 3
    assert "a worker died in test_suite.py::test_dies" in gate(pytester.path)["why"]
    assert_nothing_is_left(pytester.path)


def test_a_worker_that_dies_before_it_starts_leaves_a_verdict(start: Start, pytester: pytest.Pytester) -> None:
    result = start("def test_nothing(): pass", "--dist", "load", "--tx", "popen//python=false")
    assert result.ret == 6 and "verdict: broken" in result.outlines[-1]
    assert gate(pytester.path)["verdict"] == "broken"
    assert_nothing_is_left(pytester.path)


def test_workers_are_as_many_as_the_host_bears(start: Start) -> None:
    """An instance with more processors than the host has leaves room for one worker."""
    result = start("def test_nothing(): pass", "-n", "auto", "--instance-type", "ecs.g7.32xlarge")
    result.stdout.fnmatch_lines(["created: 1/1 worker*"])


@pytest.mark.boots
def test_shards_run_each_test_once(start: Start, pytester: pytest.Pytester) -> None:
    seen: list[str] = []
    plans = set()
    for shard, options in (("1/2", ["-n", "2"]), ("2/2", [])):
        result = start(SUITE, "--shard", shard, *options, conftest=CONFTEST)
        document = gate(pytester.path)
        assert document["verdict"] == "not judged" and result.ret == 7
        assert (document["shard"]["index"], document["shard"]["count"]) == (int(shard[0]), 2)
        plans.add(document["shard"]["plan"])
        seen += judged(document)
    assert len(seen) == len(set(seen)) == 11
    assert len(plans) == 1 and plans != {""}
    assert story(pytester.path)[0] == {"upgraded": 1, "rolled_back": 1, "rebooted": 1, "own": 4}


def test_a_shard_may_be_empty(start: Start, pytester: pytest.Pytester) -> None:
    suite = "from lifsea_testbed import claim\n@claim('no-sshd')\ndef test_one(): pass\n"
    (occupied,) = shards.assign({"test_suite.py::test_one": None}, 2, {}).values()
    result = start(suite, "--shard", f"{3 - occupied}/2")
    result.assert_outcomes(deselected=1)
    assert result.ret == 7 and judged(gate(pytester.path)) == []


@pytest.mark.parametrize(("options", "complaint"), [
    (["--shard", "3/2"], "--shard 3/2: not K/N (hint: *"),
    (["--shard", "1/2", "--shard-durations", "none.json"],
     "--shard-durations none.json: holds no durations of tests*(hint: *"),
])  # fmt: skip
def test_what_is_no_shard_is_refused(start: Start, options: list[str], complaint: str) -> None:
    result = start("def test_nothing(): pass", *options)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"ERROR: {complaint}"])
