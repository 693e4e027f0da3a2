"""The one line by which a test hands over a figure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lifsea_testbed.errors import CallerError
from lifsea_testbed.perf.metric import Better, Metric
from lifsea_testbed.support.sanitize import printable

#: A slash makes the metric a phase of the one before it: `boot/kernel` is a part of `boot`.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?")
_LONGEST = 1000


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A value of a metric."""

    metric: Metric
    value: float

    def fields(self) -> dict[str, Any]:
        """Returns what goes through JSON and comes back by `from_fields`."""
        return {"metric": {**asdict(self.metric), "better": str(self.metric.better)}, "value": self.value}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Measurement:
        """Reads what `fields` made."""
        metric = fields["metric"]
        return cls(metric=Metric(**{**metric, "better": Better(metric["better"])}), value=fields["value"])


class Measure:
    """Takes the figures of one test, in order."""

    def __init__(self) -> None:
        self.taken: list[Measurement] = []

    def __call__(self, name: str, value: float, *, unit: str, better: Literal["lower", "higher"],
                 definition: str = "", exact: bool = False) -> None:
        """Takes one value of the metric of that name.

        `definition` says in words what is measured; to change it, the unit, `better` or `exact` begins a new series.
        `exact` is for what does not vary, such as a count of packages: it is judged without statistics.

        Raises:
            CallerError: the name or the value is none, or a text has control characters in it.
        """
        if not _NAME.fullmatch(name):
            raise CallerError(f"{name!r} is no name of a metric",
                              hint="lower case, digits, dots and dashes; one slash before a phase")
        if not math.isfinite(value):
            raise CallerError(f"{name}: {value} is no figure", hint="measure what has a value")
        if not all(printable(text) == text and len(text) <= _LONGEST for text in (unit, definition)):
            raise CallerError(f"{name}: the unit or the definition is no plain text", hint="say it in words")
        metric = Metric(name=name, unit=unit, better=Better(better), definition=definition, exact=exact)
        self.taken.append(Measurement(metric=metric, value=float(value)))
