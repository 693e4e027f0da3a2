"""gate.json: its form, published as a JSON Schema; every other report is made from it."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lifsea_testbed.errors import Blame, CallerError, Reason
from lifsea_testbed.report.outcome import Status
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.support.sanitize import printable
from lifsea_testbed.support.whole_file import write_whole

SCHEMA = 3
#: Larger files are refused as a gate.json (bytes).
_LARGEST = 64 << 20
_REASON = "what keeps it from being judged"


class Verdict(enum.StrEnum):
    """The verdict of a run on an image."""

    PASS = "pass"
    FAIL = "fail"
    BROKEN = "broken"
    NOT_JUDGED = "not judged"
    #: A signal or the user ended the run.
    INTERRUPTED = "interrupted"

    @property
    def exit_status(self) -> int:
        """The exit status of the run: 1 and 2 are pytest's as well; pytest itself does not use 6 and 7."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INTERRUPTED: 2, Verdict.BROKEN: 6,
                Verdict.NOT_JUDGED: 7}[self]  # fmt: skip


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attempt(_Record):
    """One attempt at a test."""

    status: Status
    blame: Blame | None = None
    why: str = ""
    reason: Reason | None = Field(default=None, description=_REASON)


class TestRecord(_Record):
    """The result of one test over all its attempts."""

    __test__ = False  # pytest would otherwise take the name for a test class

    id: str
    status: Status
    blame: Blame | None = None
    why: str = ""
    reason: Reason | None = Field(default=None, description=_REASON)
    issue: str = Field(default="", description="the link of the known issue that it failed by")
    attempts: list[Attempt] = Field(description="in order; more than one only where a test was run again")
    evidence: list[str] = Field(default=[], description="folders, relative to gate.json")
    uptime: int | None = Field(default=None, description="seconds that the watched machine had been up")
    roads: list[Literal["guest", "disk"]] = Field(
        default=[], description="who answered the questions that a disk can answer: the guest's programs, its disk")
    one_road: str = Field(default="", description="why not both answered")


class Figure(_Record):
    """A value that a test measured."""

    test: str
    metric: str
    value: float
    unit: str
    better: Literal["lower", "higher"]


class ClaimRecord(_Record):
    """The result of one claim: that of its worst test; with a judge missing it is *not judged* at best."""

    id: str
    promise: str
    status: Status
    blame: Blame | None = None
    why: str = ""
    reason: Reason | None = Field(default=None, description=_REASON + "; of several the worst")
    issue: str = Field(default="", description="the link of the known issue that it failed by")
    evidence: list[str] = Field(default=[], description="folders, relative to gate.json")
    last_looked: int | None = Field(default=None, description="seconds of uptime at the last look for late changes")
    figures: list[Figure] = []
    tests: list[TestRecord] = []
    missing: list[str] = Field(default=[], description="the tests that judge it, and that were not run to their end")
    roads: list[Literal["guest", "disk"]] = Field(
        default=[], description="who answered the questions that a disk can answer: the guest's programs, its disk")
    one_road: str = Field(default="", description="why not both answered")


class ImageRecord(_Record):
    """The image that was judged; sizes in bytes."""

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    format: str
    virtual_size: int
    file_size: int
    version: str = Field(default="", description="VERSION_ID of its os-release, or --image-version")


class Shard(_Record):
    """The part of all tests that was run: the index-th of count, from 1; `plan` is the digest of the partition."""

    index: int = Field(ge=1)
    count: int = Field(ge=1)
    plan: str = ""

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.index}/{self.count}"


class Host(_Record):
    """The host of a run; memory in MiB."""

    processor: str
    cores: int
    memory: int
    kernel: str


class RunRecord(_Record):
    """The host and the tools that ran a part of the tests."""

    shard: Shard | None = None
    host: Host
    accelerator: str
    tools: dict[str, str] = Field(description="name of a tool → its version")


class IssueState(enum.StrEnum):
    """The state of a known issue after a run."""

    SEEN = "seen"
    EXPIRED = "expired"
    #: The claim is kept: the issue is to be removed from the file.
    GONE = "gone"
    #: The claim is not kept, and did not fail by this signature either.
    NOT_SEEN = "not seen"
    #: It belongs to another profile or version, or its claim was not judged.
    NOT_APPLICABLE = "not applicable"


class IssueRecord(_Record):
    """A known issue, and its state after this run."""

    claim: str
    link: str
    owner: str
    since: str
    expires: str
    extensions: int
    state: IssueState


class KnownIssues(_Record):
    """The known issues of the run, and the date (UTC) on which they were evaluated."""

    as_of: str
    issues: list[IssueRecord]


class Document(_Record):
    """One gate.json. The same results give the same bytes: values that differ from run to run are in run.json."""

    schema_version: Literal[3] = Field(default=3, alias="schema")
    testbed: str = Field(description="the version of lifsea_testbed")
    verdict: Verdict
    exit_status: int
    why: str
    finished: bool = Field(default=True, description="whether the run came to its end; if not, it has no verdict")
    image: ImageRecord
    next_image: ImageRecord | None = None
    profile: str
    instance_type: str
    firmware: Firmware = Field(default=Firmware.BIOS, description="the firmware of the machines")
    selected: list[str] = Field(description="the claims that --claim named")
    required: list[str] = Field(default=[], description="the words of --require: claims, reasons, or all")
    shard: Shard | None = None
    runs: list[RunRecord] = Field(description="one; in a merged document one for each shard")
    claims: list[ClaimRecord]
    not_judged: dict[str, int] = Field(default={}, description="reason, or 'not run' → the number of claims")
    others: list[TestRecord] = Field(default=[], description="tests of no claim")
    hardware: list[TestRecord] = Field(default=[], description="tests of the test bed's model of the hardware")
    known_issues: KnownIssues | None = None
    troubles: list[str] = Field(default=[], description="errors outside the tests")
    failures: list[str] = Field(default=[], description="failures of the gate outside the claims: figures")

    def text(self) -> str:
        """Returns the text of the file."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=True) + "\n"

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        write_whole(path, self.text())


def read(path: Path) -> Document:
    """Reads a gate.json, which is not trusted.

    Raises:
        CallerError: the file cannot be read, or does not match this schema.
    """
    return parse(content(path), path)


def content(path: Path) -> bytes:
    """Returns the bytes of a gate.json.

    Raises:
        CallerError: the file cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            read = file.read(_LARGEST + 1)
    except OSError as error:
        raise CallerError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from None
    if len(read) > _LARGEST:
        raise CallerError(f"{path}: too large for a gate.json", hint="check the path")
    return read


def parse(content: bytes, path: Path) -> Document:
    """Returns the document with that content, which is not trusted; `path` is for messages.

    Raises:
        CallerError: the content does not match this schema.
    """
    try:
        return Document.model_validate_json(content)
    except ValidationError as error:
        what = error.errors()[0]
        where = ".".join(map(str, what["loc"])) or "the file"
        raise CallerError(f"{path}: not a gate.json of schema {SCHEMA}: {printable(where)}: {printable(what['msg'])}",
                          hint="use the version of the test bed that wrote it") from None  # fmt: skip


def schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) that every gate.json is valid against."""
    made = Document.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"lifsea-testbed-gate-{SCHEMA}", **made,
            "title": "gate.json of lifsea_testbed"}  # fmt: skip


def figure(test: str, fields: Mapping[str, Any]) -> Figure:
    """Returns the figure of a test, by the fields of its measurement."""
    metric = fields["metric"]
    return Figure(test=test, metric=metric["name"], value=fields["value"], unit=metric["unit"], better=metric["better"])
