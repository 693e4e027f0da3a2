"""Known issues: failures that pass the gate until a date, each with an owner."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lifsea_testbed.errors import CallerError
from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.report.document import ClaimRecord, IssueRecord, IssueState, KnownIssues
from lifsea_testbed.report.outcome import Judgement, Status
from lifsea_testbed.support.sanitize import printable

#: How long an issue may stay known without an extension (days).
LONGEST = 90
#: The length of a failure's text that is searched for a signature (characters).
_SEARCHED = 64 << 10


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Extension(_Entry):
    """One extension: the day on which it was granted, its last day, and the reason."""

    on: datetime.date
    expires: datetime.date
    why: str = Field(min_length=1)


class Issue(_Entry):
    """A known failure: its signature, its versions, its owner, and the last day on which it passes the gate."""

    claim: str
    profile: str = Field(min_length=1)
    versions: str = Field(default="", description="a specifier as in PEP 440; empty for all versions")
    signature: str = Field(min_length=1, description="a regular expression that is found in the failure's text")
    link: str = Field(pattern="^https?://[^\\s]+$")
    owner: str = Field(min_length=1)
    since: datetime.date
    expires: datetime.date
    extensions: list[Extension] = []

    @property
    def end(self) -> datetime.date:
        """The last day on which it passes the gate."""
        return self.extensions[-1].expires if self.extensions else self.expires

    def is_of(self, profile: str, version: str) -> bool:
        """Whether it applies to that version of that profile's OS; an invalid version is in no range."""
        if profile != self.profile:
            return False
        try:
            return not self.versions or SpecifierSet(self.versions).contains(Version(version), prereleases=True)
        except InvalidVersion:
            return False

    def explains(self, text: str) -> bool:
        """Whether its signature is found in the text of a failure."""
        return re.search(self.signature, text[:_SEARCHED], re.MULTILINE) is not None

    @field_validator("claim")
    @classmethod
    def _is_a_claim(cls, claim: str) -> str:
        if claim not in catalogue():
            raise ValueError(f"unknown claim {claim}")
        return claim

    @field_validator("versions")
    @classmethod
    def _is_a_specifier(cls, versions: str) -> str:
        try:
            SpecifierSet(versions)
        except InvalidSpecifier:
            raise ValueError(f"{versions!r} is not a version specifier, such as '>=3.4.0,<3.4.7'") from None
        return versions

    @field_validator("signature")
    @classmethod
    def _is_specific(cls, signature: str) -> str:
        try:
            if re.search(signature, ""):
                raise ValueError(f"{signature!r} matches every failure")
        except re.error as error:
            raise ValueError(f"{signature!r} is not a regular expression: {error}") from None
        return signature

    @model_validator(mode="after")
    def _ends_in_time(self) -> Issue:
        starts = [self.since, *(each.on for each in self.extensions)]
        ends = [self.expires, *(each.expires for each in self.extensions)]
        if starts != sorted(starts):
            raise ValueError("the extensions are not in order of time")
        for start, end in zip(starts, ends, strict=True):
            if not 0 <= (end - start).days <= LONGEST:
                raise ValueError(f"{end} is not within {LONGEST} days after {start}")
        return self


@dataclass(frozen=True, kw_only=True)
class Match:
    """The known issue that explains a failure, and whether it has expired."""

    issue: Issue
    expired: bool


@dataclass(frozen=True, kw_only=True)
class KnownIssueList:
    """The known issues of a run, evaluated on one day (UTC)."""

    issues: tuple[Issue, ...] = ()
    today: datetime.date

    def match(self, *, claim: str, profile: str, version: str, text: str) -> Match | None:
        """Returns the issue that explains a failure of that claim, preferably one that has not expired."""
        found = [issue for issue in self.issues
                 if issue.claim == claim and issue.is_of(profile, version) and issue.explains(text)]  # fmt: skip
        found.sort(key=lambda issue: issue.end, reverse=True)
        return Match(issue=found[0], expired=found[0].end < self.today) if found else None


def today() -> datetime.date:
    """Returns the date in UTC."""
    return datetime.datetime.now(datetime.UTC).date()


def load(paths: Iterable[Path], *, on: datetime.date) -> KnownIssueList:
    """Reads known issues from TOML files.

    Raises:
        CallerError: a file cannot be read or is not valid.
    """
    issues = [issue for path in paths for issue in _issues(path)]
    for issue in issues:
        if latest := next((day for day in _starts(issue) if day > on), None):
            raise CallerError(f"the known issue {issue.link} begins on {latest}, after today ({on})",
                              hint="dates are in UTC; write the day on which it was found or extended")  # fmt: skip
    return KnownIssueList(issues=tuple(issues), today=on)


def files(named: Iterable[Path], profile: str) -> list[Path]:
    """Returns the named files, and the known-issues.toml beside a profile that is a file."""
    beside = Path(profile).with_name("known-issues.toml")
    is_file = profile.endswith(".toml") and beside.is_file()
    return list(dict.fromkeys([*named, *([beside] if is_file else [])]))


def excuse(judgement: Judgement, known: KnownIssueList, *, claim: str, profile: str, version: str,
           text: str) -> Judgement:
    """Returns the judgement, changed to known or expired if a known issue explains the text of the failure."""
    match = known.match(claim=claim, profile=profile, version=version, text=text)
    if judgement.status is not Status.FAILED or match is None:
        return judgement
    issue = match.issue
    if match.expired:
        why = f"known issue expired on {issue.end} ({issue.link}, {issue.owner}): {judgement.why}"
        return replace(judgement, status=Status.EXPIRED, why=why, issue=issue.link)
    why = f"known issue until {issue.end}{_extended(issue)} ({issue.link}, {issue.owner}): {judgement.why}"
    return replace(judgement, status=Status.KNOWN, why=why, issue=issue.link)


def record(known: KnownIssueList, claims: Iterable[ClaimRecord], *, profile: str, version: str) -> KnownIssues | None:
    """Returns the state of each known issue, or None if there are none."""
    by_id = {claim.id: claim for claim in claims}
    records = [
        IssueRecord(claim=issue.claim, link=issue.link, owner=issue.owner, since=str(issue.since),
                    expires=str(issue.end), extensions=len(issue.extensions),
                    state=_state_of(issue, by_id.get(issue.claim), profile, version))
        for issue in known.issues
    ]  # fmt: skip
    return KnownIssues(as_of=str(known.today), issues=records) if records else None


def _starts(issue: Issue) -> list[datetime.date]:
    return [issue.since, *(each.on for each in issue.extensions)]


def _issues(path: Path) -> list[Issue]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _refused(path, f"not TOML: {error}") from None
    tables: Any = document.get("issue", [])
    if set(document) - {"issue"} or not isinstance(tables, list):
        raise _refused(path, "has content other than [[issue]] tables")
    return [_issue(path, number, table) for number, table in enumerate(tables, start=1)]


def _issue(path: Path, number: int, table: Any) -> Issue:
    try:
        return Issue.model_validate(table)
    except ValidationError as error:
        what = error.errors()[0]
        where = ".".join(map(str, what["loc"]))
        message = what["msg"].removeprefix("Value error, ")
        raise _refused(path, f"issue {number}{f', {where}' if where else ''}: {message}") from None


def _refused(path: Path, what: str) -> CallerError:
    return CallerError(f"{path}: {printable(what)}".replace("\n", " "), hint="see docs/verdict.md, known issues")


def _state_of(issue: Issue, claim: ClaimRecord | None, profile: str, version: str) -> IssueState:
    if claim is None or not issue.is_of(profile, version):
        return IssueState.NOT_APPLICABLE
    seen = {test.status for test in claim.tests if test.issue == issue.link}
    if seen:
        return IssueState.EXPIRED if Status.EXPIRED in seen else IssueState.SEEN
    return IssueState.GONE if claim.status.is_kept else IssueState.NOT_SEEN


def _extended(issue: Issue) -> str:
    times = len(issue.extensions)
    return f", extended {'once' if times == 1 else f'{times} times'}" if times else ""
