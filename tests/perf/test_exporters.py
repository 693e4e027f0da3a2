"""The formats for other programs: OpenMetrics, Grafana, github-action-benchmark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lifsea_testbed.cli.main import main
from lifsea_testbed.perf import exporters
from lifsea_testbed.perf.history import History
from lifsea_testbed.perf.metric import Better, Metric
from tests.support.perf_cases import BOOT, build, nightly, samples
from tests.support.postgres import server

SPEED = Metric(name="disk/read-speed", unit="MB/s", better=Better.HIGHER)


@pytest.fixture
def place(tmp_path: Path) -> str:
    path = str(tmp_path / "history.db")
    with History(path) as history:
        history.add(nightly([2.0, 2.1]))
        history.add(samples(build(2, image_version='3.2 "x"\\'), [2.5, 2.7, 2.6]))
        history.add(samples(build(2), [100.0], SPEED))
    return path


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with server() as url:
        yield url


def exported(place: str, kind: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["history", "export", "--history", place, "--format", kind]) == 0
    return capsys.readouterr().out


def test_openmetrics_has_the_newest_build(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = exported(place, "openmetrics", capsys).splitlines()
    assert lines[:3] == ["# TYPE lifsea_boot_seconds gauge", "# UNIT lifsea_boot_seconds seconds",
                         "# HELP lifsea_boot_seconds From power-on until a shell answers."]  # fmt: skip
    assert lines[3].endswith('version="3.2 \\"x\\"\\\\"} 2.6 1622685600')
    assert lines[4] == "# TYPE lifsea_disk_read_speed_MB_s gauge"
    assert lines[-1] == "# EOF"
    sample = re.compile(r'[a-zA-Z_]\w*\{(\w+="(?:[^"\\]|\\.)*",?)+\} \S+ \d+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)


@pytest.mark.parametrize(("kind", "name", "value"), [("smaller", "boot", 2.6), ("bigger", "disk/read-speed", 100.0)])
def test_github_action_benchmark_gets_each_direction_by_itself(
    place: str, kind: str, name: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = json.loads(exported(place, f"github-action-benchmark-{kind}", capsys))
    assert entry["name"] == f"{name} (lifsea-3.3, ecs.g7.large, kvm, 10.0.2, a rack, 8 cores)"
    assert (entry["value"], set(entry)) == (value, {"name", "unit", "value", "range", "extra"})


def test_the_queries_of_the_grafana_dashboard_run_on_the_schema(postgres: str) -> None:
    """With its variables as Grafana fills them in."""
    document = json.loads(exporters.grafana())
    with History(postgres) as history:
        history.add(nightly([2.0, 2.1]))
        rows = [list(run(history, target["rawSql"])) for panel in document["panels"] for target in panel["targets"]]
        choices = [list(run(history, each["query"])) for each in document["templating"]["list"][1:]]
    assert [len(found) for found in rows] == [2, 2]
    assert [found[0][0] for found in choices] == [BOOT.name, "lifsea-3.3", "ecs.g7.large", "kvm", "a rack, 8 cores",
                                                  "10.0.2", "", 0, 0]  # fmt: skip


def run(history: History, query: str) -> list[sa.Row[Any]]:
    values = {"metric": "boot", "profile": "lifsea-3.3", "instance": "ecs.g7.large", "accelerator": "kvm",
              "host": "a rack, 8 cores", "qemu": "10.0.2", "processor": "", "workers": "0", "memory": "0"}  # fmt: skip
    query = re.sub(r"\$\{(\w+):sqlstring\}", lambda found: f"'{values[found[1]]}'", query)
    query = re.sub(r"\$__timeFilter\((.*?)\)", r"\1 > '2020-01-01'", query)
    with history._engine.connect() as connection:
        return list(connection.execute(sa.text(query.replace("::", "\\:\\:"))))
