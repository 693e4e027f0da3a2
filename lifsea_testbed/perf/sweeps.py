"""Sweeps of power cuts as figures: one set for each shard, so that a history can sum them up."""

from __future__ import annotations

import json
import time
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lifsea_testbed.errors import CallerError
from lifsea_testbed.perf.metric import Better, Build, Metric, Sample, digest
from lifsea_testbed.support.sanitize import dashed, printable

#: The instance type, accelerator and host class of a sweep: whether a disk boots does not depend on them.
_ANY = "any"
#: The default operation; its figures have no name of their own.
_UPGRADE = "upgrade"
_LARGEST = 64 << 20


class _Recording(BaseModel):
    subject: str
    image: str
    profile: str
    qemu: str


class _Summary(BaseModel):
    distinct: int
    booted: int
    inferred: int
    left: int
    broken: int


class _Sweep(BaseModel):
    recording: _Recording
    summary: _Summary


_METRICS = {
    "distinct": (Better.HIGHER, "Disks, equal ones counted once, that power cuts may leave behind."),
    "booted": (Better.HIGHER, "Disks of these that were booted."),
    "inferred": (Better.HIGHER, "Disks of these that differ from a booted one only where that boot never read."),
    "left": (Better.LOWER, "Disks of these that were neither booted nor inferred."),
    "broken": (Better.LOWER, "Disks of these from which neither the old image nor the new one comes up."),
}


def read(path: Path) -> list[Sample]:
    """Returns the figures of the shard in a powercut.json; the same file gives the same samples.

    Raises:
        CallerError: the file cannot be read, or is not a powercut.json.
    """
    try:
        status, text = path.stat(), path.read_text("utf-8")[:_LARGEST]
        sweep = _Sweep.model_validate_json(text)
    except OSError as error:
        raise CallerError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from None
    except (ValidationError, ValueError):
        raise CallerError(f"{path}: not a powercut.json", hint="a sweep writes it to its --reports") from None
    build = Build(
        token=digest(json.loads(text)), started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.st_mtime)),
        image_digest=printable(sweep.recording.image), image_version="", revision="",
        profile=printable(sweep.recording.profile), qemu=printable(sweep.recording.qemu), instance_type=_ANY,
        accelerator=_ANY, host_class=_ANY,
    )  # fmt: skip
    cuts = "power-cuts" if sweep.recording.subject == _UPGRADE else f"power-cuts-{dashed(sweep.recording.subject)}"
    metrics = [Metric(name=f"{cuts}-{name}", unit="disks", better=better, definition=definition, exact=True)
               for name, (better, definition) in _METRICS.items()]  # fmt: skip
    values = [getattr(sweep.summary, name) for name in _METRICS]
    return [Sample(build=build, metric=metric, value=value, test="powercut", number=number)
            for number, (metric, value) in enumerate(zip(metrics, values, strict=True), start=1)]  # fmt: skip
