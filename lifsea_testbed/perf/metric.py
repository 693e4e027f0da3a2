"""Metrics and their samples: what was measured, on what, and by which definition."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any


class Better(enum.StrEnum):
    """Which way a metric improves."""

    LOWER = "lower"
    HIGHER = "higher"


class Kind(enum.StrEnum):
    """What a build is for: later builds are compared with the last release."""

    BUILD = "build"
    RELEASE = "release"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric under one definition; `exact` says that repeating it gives the same value."""

    name: str
    unit: str
    better: Better
    definition: str = ""
    exact: bool = False

    @functools.cached_property
    def id(self) -> str:
        """Names the metric together with its definition: whatever changes in either begins another series."""
        return digest(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What has to be the same for two figures to be comparable."""

    profile: str
    instance_type: str
    accelerator: str
    host_class: str


@dataclass(frozen=True, kw_only=True)
class Build:
    """One run of the test bed on one image: `token` is the run's own, `started` is UTC as in ISO 8601.

    `reports` says where the run's reports are, as a link or a path, or nothing.
    """

    token: str
    started: str
    image_digest: str
    image_version: str
    revision: str
    profile: str
    instance_type: str
    accelerator: str
    qemu: str
    host_class: str
    kind: Kind = Kind.BUILD
    reports: str = ""

    @functools.cached_property
    def id(self) -> str:
        """Names the build by all that is known of it."""
        return digest(asdict(self))

    @property
    def setting(self) -> Setting:
        """What its figures were taken on."""
        return Setting(profile=self.profile, instance_type=self.instance_type, accelerator=self.accelerator,
                       host_class=self.host_class)  # fmt: skip

    @property
    def label(self) -> str:
        """What people call it: the image's version, or the start of its digest where it has none."""
        return self.image_version or self.image_digest[:12]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One value of one metric, taken by a test; `number` is its place among all samples of the run, from 1."""

    build: Build
    metric: Metric
    value: float
    test: str
    number: int
    budget: float | None = None

    @functools.cached_property
    def id(self) -> str:
        """Names the sample by its whole content: the same in every database, and never the same for two samples.

        Databases do not tell 1 from 1.0, nor 0.0 from -0.0; nor does this.
        """
        numbers = [None if number is None else float(number) + 0.0 for number in (self.value, self.budget)]
        return digest([self.build.id, self.metric.id, self.test, self.number, *numbers])


def digest(content: Any) -> str:
    """Returns 128 bits that stand for the content, in hexadecimal: SHA-256, cut, over canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]
