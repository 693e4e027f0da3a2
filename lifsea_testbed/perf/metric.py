"""Metrics and their samples, and the fixture `measure` by which a test takes a sample."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lifsea_testbed.errors import CallerError
from lifsea_testbed.support.sanitize import printable

#: A slash makes the metric a phase of the one before it: `boot/kernel` is a part of `boot`.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?")
_LONGEST = 1000
#: The fields of a build that its first version did not have.
_LATER = frozenset({"processor", "workers", "memory"})


class Better(enum.StrEnum):
    """The direction in which a metric improves."""

    LOWER = "lower"
    HIGHER = "higher"


class BuildKind(enum.StrEnum):
    """Whether a build is a release; later builds are compared with the last release."""

    BUILD = "build"
    RELEASE = "release"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric under one definition; an `exact` one has the same value each time that it is measured."""

    name: str
    unit: str
    better: Better
    definition: str = ""
    exact: bool = False

    @functools.cached_property
    def id(self) -> str:
        """The digest of the metric and its definition: any change of either starts another series."""
        return digest(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The conditions that must be equal for two figures to be comparable.

    `processor` is the model of the guest's processor, `workers` the number of processes that run tests, `memory` (MiB)
    that of a guest; runs of earlier versions did not record them: empty and 0.
    """

    profile: str
    instance_type: str
    accelerator: str
    qemu: str
    host_class: str
    processor: str
    workers: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class Build:
    """One run of the test bed on one image: `token` is unique to the run, `started` is UTC in ISO 8601.

    `reports` is the link or path of the run's reports, or empty. The other fields are as in `Setting`.
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
    kind: BuildKind = BuildKind.BUILD
    reports: str = ""
    processor: str = ""
    workers: int = 0
    memory: int = 0

    @functools.cached_property
    def id(self) -> str:
        """The digest of all fields of the build, without later ones that were not recorded: old builds keep theirs."""
        return digest({name: value for name, value in asdict(self).items() if value or name not in _LATER})

    @property
    def setting(self) -> Setting:
        """The conditions under which its figures were taken."""
        return Setting(**{field.name: getattr(self, field.name) for field in fields(Setting)})

    @property
    def label(self) -> str:
        """The image's version, or the first 12 digits of its digest if it has none."""
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
        """The digest of the whole sample: equal in every database, and unique to the sample.

        Databases do not distinguish 1 from 1.0, nor 0.0 from -0.0; nor does this digest.
        """
        numbers = [None if number is None else float(number) + 0.0 for number in (self.value, self.budget)]
        return digest([self.build.id, self.metric.id, self.test, self.number, *numbers])


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One value of a metric."""

    metric: Metric
    value: float

    def fields(self) -> dict[str, Any]:
        """Returns the measurement as fields for JSON; `from_fields` reads them."""
        return {"metric": {**asdict(self.metric), "better": str(self.metric.better)}, "value": self.value}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Measurement:
        """Reads the result of `fields`."""
        metric = fields["metric"]
        return cls(metric=Metric(**{**metric, "better": Better(metric["better"])}), value=fields["value"])


class Measure:
    """Records the figures of one test, in order."""

    def __init__(self) -> None:
        self.taken: list[Measurement] = []

    def __call__(self, name: str, value: float, *, unit: str, better: Literal["lower", "higher"],
                 definition: str = "", exact: bool = False) -> None:
        """Records one value of the metric of that name.

        `definition` describes in words what is measured. A change of it, the unit, `better` or `exact` starts a new
        series. `exact` is for values that do not vary, such as a count of packages: they are judged without statistics.

        Raises:
            CallerError: the name or the value is invalid, or a text has control characters or is too long.
        """
        if not _NAME.fullmatch(name):
            raise CallerError(f"{name!r} is not a valid name of a metric",
                              hint="lower case, digits, dots and dashes; one slash before a phase")
        if not math.isfinite(value):
            raise CallerError(f"measure {name}: {value} is not a finite number", hint="record finite values only")
        if not all(printable(text) == text and len(text) <= _LONGEST for text in (unit, definition)):
            raise CallerError(f"measure {name}: the unit or the definition is not plain text",
                              hint=f"up to {_LONGEST} printable characters")
        metric = Metric(name=name, unit=unit, better=Better(better), definition=definition, exact=exact)
        self.taken.append(Measurement(metric=metric, value=float(value)))


def digest(content: Any) -> str:
    """Returns the first 128 bits, in hexadecimal, of the SHA-256 digest of the content as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]
