"""The accuracy of the judgement of synthetic figures: `python -m benchmarks.figures`, about a minute on one core."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lifsea_testbed.perf import dashboard
from lifsea_testbed.perf.change_points import steps
from lifsea_testbed.perf.compare import Change, compare
from lifsea_testbed.perf.history import History
from lifsea_testbed.perf.metric import Metric, Sample
from lifsea_testbed.perf.trend import trends
from tests.support.perf_cases import BOOT, build, samples, shifting

_NOISES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.15)
_RANDOM = np.random.default_rng(5)


def drawn(count: int, level: float, noise: float) -> list[float]:
    """Samples around a level."""
    return [float(value) for value in level * (1 + _RANDOM.normal(0, noise, count))]


def regressed(trials: int, count: int, factor: float, noise: float) -> int:
    """The number of trials in which a build that is slower by the factor is found to be slower."""
    found = [compare(BOOT, drawn(count, 2.0, noise), drawn(count, 2.0 * factor, noise)).change for _ in range(trials)]
    return found.count(Change.REGRESSED)


def alarms(trials: int = 1000) -> int:
    """Prints the false alarms of equal builds, and returns the most of any row."""
    rows = {(count, noise): regressed(trials, count, 1.0, noise) for count in (5, 10) for noise in _NOISES}
    for (count, noise), alarmed in rows.items():
        print(f"equal builds, {count:2} samples a side, noise {noise:6.1%}: {alarmed} alarms in {trials}")
    return max(rows.values())


def power(trials: int = 300) -> None:
    """Prints the share of slow-downs that is found."""
    for noise in _NOISES[:4]:
        for factor in (1.02, 1.05):
            found = [f"{regressed(trials, count, factor, noise) / trials:4.0%} of {count} a side" for count in (5, 10)]
            print(f"{factor - 1:.0%} slower, noise {noise:5.1%}: found {', '.join(found)}")


def change_points(histories: int = 200) -> tuple[float, float]:
    """Prints and returns precision and recall over histories of 300 builds with four steps."""
    hits = found = wanted = 0
    for seed in range(histories):
        values, places = shifting(seed)
        reported = [step.index for step in steps(values)]
        hits += sum(any(abs(place - index) <= 2 for index in reported) for place in places)
        found, wanted = found + len(reported), wanted + len(places)
    for noise in (0.01, 0.03):
        level = sum(bool(steps(drawn(300, 2.0, noise))) for _ in range(histories))
        print(f"level histories with a change point, noise {noise:.0%}: {level} of {histories}")
    print(f"change points: precision {hits / found:.3f}, recall {hits / wanted:.3f} of {wanted}")
    return hits / found, hits / wanted


def five_years(builds: int = 2000, metrics: int = 40, each: int = 10) -> Iterator[Sample]:
    """Yields the samples of a nightly history."""
    names = [Metric(name=f"metric-{number}", unit="s", better=BOOT.better) for number in range(metrics)]
    for number in range(builds):
        of = build(number)
        for metric in names:
            yield from samples(of, drawn(each, 2.0, 0.01), metric)


def site() -> float:
    """Prints the time and size of the dashboard of five years, and returns the seconds."""
    with tempfile.TemporaryDirectory() as folder, History(f"{folder}/history.db") as history:
        count, started = history.add(five_years()), time.monotonic()
        dashboard.write(trends(history), Path(folder) / "site")
        taken = time.monotonic() - started
        size = sum(path.stat().st_size for path in (Path(folder) / "site").rglob("*") if path.is_file())
        print(f"dashboard of {count} samples: {taken:.0f} s, {size >> 20} MiB")
    return taken


def main() -> None:
    """Prints everything."""
    worst = alarms()
    power()
    precision, recall = change_points()
    taken = site()
    print(f"figures: false alarms {worst}/1000 at worst; precision {precision:.2f} recall {recall:.2f}; "
          f"five years in {taken:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
