"""The dashboard: a static site without server or network; its data are split so that a view loads only its own part."""

from __future__ import annotations

import importlib.resources
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lifsea_testbed.perf.compare import Comparison
from lifsea_testbed.perf.metric import Build, Setting
from lifsea_testbed.perf.trend import Point, Trend
from lifsea_testbed.support.sanitize import slug
from lifsea_testbed.support.sinks import json_text

#: The number of builds that share a file of samples.
CHUNK = 20
#: The number of values in the small curve of the overview.
_SPARK = 60
_DIGITS = 7


def write(trends: Iterable[Trend], output: Path) -> None:
    """Writes the site into that directory and replaces an older one.

    Every text is data: the pages insert it as text nodes and attributes, never as markup.
    """
    shutil.rmtree(output / "data", ignore_errors=True)
    (output / "data").mkdir(parents=True)
    kept = list(trends)
    builds = _builds(kept)
    numbers = {build: number for number, build in enumerate(builds)}
    settings = list(dict.fromkeys(trend.setting for trend in kept))
    _save(output, "index", _index(kept, numbers, settings))
    _save(output, "builds", _columns(builds, settings))
    for number, trend in enumerate(kept):
        _save(output, f"trend-{number}", _series(trend, numbers))
    for chunk, content in _samples(kept, numbers).items():
        _save(output, f"samples-{chunk}", content)
    for asset in importlib.resources.files("lifsea_testbed").joinpath("perf", "site").iterdir():
        (output / asset.name).write_bytes(asset.read_bytes())


def _save(output: Path, name: str, content: Any) -> None:
    """Writes the content as a script that passes it to the page: a page opened from a disk may load scripts only."""
    (output / "data" / f"{name}.js").write_text(f'receive("{name}",{json_text(content, indent=None)});\n', "utf-8")


def _builds(trends: Iterable[Trend]) -> list[Build]:
    builds = {point.build for trend in trends for point in trend.points}
    return sorted(builds, key=lambda build: (build.started, build.id))


def _index(trends: Sequence[Trend], numbers: dict[Build, int], settings: list[Setting]) -> dict[str, Any]:
    return {
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "builds": len(numbers),
        "samples": sum(point.count for trend in trends for point in trend.points),
        "chunk": CHUNK,
        "settings": [asdict(setting) for setting in settings],
        "trends": [{**_summary(trend, numbers), "setting": settings.index(trend.setting)} for trend in trends],
    }


def _summary(trend: Trend, numbers: dict[Build, int]) -> dict[str, Any]:
    newest, points = trend.points[-1], trend.points
    every = max(1, math.ceil(len(points) / _SPARK))
    return {
        "metric": {**asdict(trend.metric), "id": trend.metric.id},
        "points": len(points),
        "newest": {"build": numbers[newest.build], "label": newest.build.label, "started": newest.build.started,
                   "median": _short(newest.median), "low": _short(newest.low), "high": _short(newest.high)},
        "budget": _short(newest.budget),
        "order": newest.place,
        "change": _comparison(trend.comparison) if trend.comparison else None,
        "steps": len(trend.steps),
        "spark": [_short(point.median) for point in reversed(points[::-every])],
    }  # fmt: skip


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "verdict": str(comparison.change),
        "sentence": str(comparison),
        "share": _short(comparison.effect.middle),
        "before": _short(comparison.medians[0]),
    }


def _columns(builds: Sequence[Build], settings: list[Setting]) -> dict[str, Any]:
    names = ("token", "started", "label", "image_digest", "image_version", "revision", "qemu", "kind", "reports")
    columns: dict[str, Any] = {name: [getattr(build, name) for build in builds] for name in names}
    return {**columns, "setting": [settings.index(build.setting) for build in builds]}


def _series(trend: Trend, numbers: dict[Build, int]) -> dict[str, Any]:
    columns = {name: [_short(getattr(point, name)) for point in trend.points]
               for name in ("least", "low", "median", "high", "most", "budget")}  # fmt: skip
    return {
        **columns,
        "build": [numbers[point.build] for point in trend.points],
        "count": [point.count for point in trend.points],
        "steps": [{**{key: _short(value) for key, value in asdict(step).items()}, "share": _short(step.share)}
                  for step in trend.steps],
    }  # fmt: skip


def _samples(trends: Sequence[Trend], numbers: dict[Build, int]) -> dict[int, dict[int, list[dict[str, Any]]]]:
    chunks: dict[int, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for number, trend in enumerate(trends):
        for point in trend.points:
            build = numbers[point.build]
            chunks[build // CHUNK][build].append({"trend": number, "tests": _tests(point)})
    return chunks


def _tests(point: Point) -> list[dict[str, Any]]:
    return [{"name": test, "folder": slug(test), "values": [_short(value) for value in values]}
            for test, values in point.samples.items()]  # fmt: skip


def _short(value: float | None) -> float | None:
    """The number rounded to seven digits; None if it is not finite, because JSON has no such numbers."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
