"""Synthetic figures: builds, samples and whole histories with known shifts."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lifsea_testbed.perf.metric import Better, Build, BuildKind, Metric, Sample

BOOT = Metric(name="boot", unit="s", better=Better.LOWER, definition="From power-on until a shell answers.")
_FIRST = datetime.datetime(2021, 6, 1, 2, tzinfo=datetime.UTC)


def build(number: int = 0, **fields: Any) -> Build:
    """One build of a nightly series."""
    started = (_FIRST + datetime.timedelta(days=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
    usual: dict[str, Any] = {
        "token": f"{number:032x}", "started": started, "image_digest": f"{number:064x}",
        "image_version": f"3.{number}", "revision": f"{number:040x}", "profile": "lifsea-3.3",
        "instance_type": "ecs.g7.large", "accelerator": "kvm", "qemu": "10.0.2", "host_class": "a rack, 8 cores",
    }  # fmt: skip
    return Build(**{**usual, **fields})


def samples(of: Build, values: Sequence[float], metric: Metric = BOOT, **fields: Any) -> list[Sample]:
    """The samples of one metric in one build."""
    usual: dict[str, Any] = {"test": "suites/test_boot.py::test_boots", **fields}
    return [Sample(build=of, metric=metric, value=value, number=number, **usual)
            for number, value in enumerate(values, start=1)]  # fmt: skip


def nightly(levels: Sequence[float], *, noise: float = 0.01, each: int = 5, seed: int = 1,
            release_every: int = 30, metric: Metric = BOOT, budget: float | None = None) -> Iterator[Sample]:
    """A history with one build for each level; every so often one is a release."""
    random = np.random.default_rng(seed)
    for number, level in enumerate(levels):
        kind = BuildKind.RELEASE if number % release_every == release_every // 2 else BuildKind.BUILD
        values = [float(value) for value in level * (1 + random.normal(0, noise, each))]
        yield from samples(build(number, kind=kind), values, metric, budget=budget)


def shifting(seed: int, *, parts: int = 5, length: int = 60, noise: float = 0.01) -> tuple[list[float], list[int]]:
    """A series of medians on shifting levels (3 % to 10 %), one value in thirty an outlier, and where it shifts."""
    random = np.random.default_rng(seed)
    level, values, places = 2.0, list[float](), list[int]()
    for _ in range(parts):
        outliers = np.where(random.random(length) < 1 / 30, 1.15, 1.0)
        values += [float(value) for value in level * (1 + random.normal(0, noise, length)) * outliers]
        places.append(len(values))
        level *= 1 + random.choice([-1, 1]) * random.uniform(0.03, 0.1)
    return values, places[:-1]
