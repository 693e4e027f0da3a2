"""Exports figures to other programs: OpenMetrics, Grafana, github-action-benchmark."""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from lifsea_testbed.perf.metric import Better
from lifsea_testbed.perf.trend import Trend

_PREFIX = "lifsea_"
#: Units that have a name in OpenMetrics; others are appended to the metric's name unchanged.
_UNITS = {"s": "seconds", "B": "bytes"}


def openmetrics(trends: Iterable[Trend]) -> str:
    """Returns the newest build of each trend in OpenMetrics text (version 1.0.0): gauges with the run's time stamp."""
    families: dict[str, list[Trend]] = {}
    for trend in trends:
        families.setdefault(_family(trend), []).append(trend)
    lines = [line for name, members in families.items() for line in _exposition(name, members)]
    return "\n".join([*lines, "# EOF"]) + "\n"


def github_action_benchmark(trends: Iterable[Trend], better: Better) -> str:
    """Returns the newest builds in that action's format customSmallerIsBetter or customBiggerIsBetter."""
    entries = [
        {
            "name": f"{trend.metric.name} ({', '.join(map(str, filter(None, asdict(trend.setting).values())))})",
            "unit": trend.metric.unit,
            "value": trend.points[-1].median,
            "range": f"{trend.points[-1].low:.6g} to {trend.points[-1].high:.6g}",
            "extra": f"{trend.points[-1].build.label}, {trend.points[-1].count} samples",
        }
        for trend in trends
        if trend.metric.better is better
    ]  # fmt: skip
    return json.dumps(entries, indent=2) + "\n"


def grafana() -> str:
    """Returns a Grafana dashboard over a history in PostgreSQL: trends, budgets and the newest builds."""
    columns = {"metric": "metric", "profile": "profile", "instance": "instance_type", "accelerator": "accelerator",
               "host": "host_class", "qemu": "qemu", "processor": "processor", "workers": "workers",
               "memory": "memory"}  # fmt: skip
    where = " AND ".join(f"{column} = ${{{name}:sqlstring}}" for name, column in columns.items())
    trend = _panel("timeseries", "$metric", 0, 10, f"""
        SELECT started::timestamptz AS time, percentile_cont(0.5) WITHIN GROUP (ORDER BY value) AS median,
               min(value) AS least, max(value) AS most, max(budget) AS budget
        FROM samples_in_full WHERE {where} AND $__timeFilter(started::timestamptz)
        GROUP BY token, started ORDER BY 1""")  # fmt: skip
    builds = _panel("table", "Newest builds", 10, 10, f"""
        SELECT started, image_version, kind, revision, qemu,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY value) AS median,
               count(*) AS samples, max(unit) AS unit, max(reports) AS reports
        FROM samples_in_full WHERE {where}
        GROUP BY token, started, image_version, kind, revision, qemu ORDER BY started DESC LIMIT 50""")  # fmt: skip
    document = {
        "title": "Figures of container OS images", "uid": "lifsea-testbed-figures", "schemaVersion": 39, "version": 1,
        "time": {"from": "now-1y", "to": "now"}, "panels": [trend, builds], "tags": ["lifsea-testbed"],
        "templating": {"list": [_source(), *(_variable(name, column) for name, column in columns.items())]},
    }  # fmt: skip
    return json.dumps(document, indent=2) + "\n"


def _family(trend: Trend) -> str:
    """The name of a metric family: letters, digits and underscores, ending in the unit."""
    unit = re.sub(r"[^a-zA-Z0-9]+", "_", _UNITS.get(trend.metric.unit, trend.metric.unit)).strip("_")
    name = _PREFIX + re.sub(r"[^a-zA-Z0-9]+", "_", trend.metric.name).strip("_")
    return name if not unit or name.endswith(f"_{unit}") else f"{name}_{unit}"


def _exposition(family: str, trends: list[Trend]) -> Iterator[str]:
    yield f"# TYPE {family} gauge"
    if unit := _UNITS.get(trends[0].metric.unit):
        yield f"# UNIT {family} {unit}"
    if trends[0].metric.definition:
        yield f"# HELP {family} {_escaped(trends[0].metric.definition)}"
    for trend in trends:
        newest = trend.points[-1]
        labels = {**asdict(trend.setting), "definition": trend.metric.id[:8], "version": newest.build.label}
        text = ",".join(f'{key}="{_escaped(str(value))}"' for key, value in labels.items())
        yield f"{family}{{{text}}} {newest.median!r} {_seconds(newest.build.started)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _seconds(started: str) -> int:
    return calendar.timegm(time.strptime(started, "%Y-%m-%dT%H:%M:%SZ"))


def _panel(kind: str, title: str, top: int, height: int, query: str) -> dict[str, Any]:
    target = {"refId": "A", "rawSql": " ".join(query.split()), "rawQuery": True, "format": "table"}
    return {"type": kind, "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": height},
            "datasource": {"type": "grafana-postgresql-datasource", "uid": "${source}"}, "targets": [target]}


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "grafana-postgresql-datasource", "label": "History"}


def _variable(name: str, column: str) -> dict[str, Any]:
    query = f"SELECT DISTINCT {column} FROM samples_in_full ORDER BY 1"
    return {"name": name, "type": "query", "refresh": 1, "query": query,
            "datasource": {"type": "grafana-postgresql-datasource", "uid": "${source}"}}
