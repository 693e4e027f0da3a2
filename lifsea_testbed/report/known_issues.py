"""Known issues: failures that are expected for a while, each with an owner and an end."""

from __future__ import annotations

import datetime
import enum
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lifsea_testbed.errors import CallerError
from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.support.sanitize import printable

#: How long an issue may be known before somebody has to look again (days).
LONGEST = 90
#: A failure's text is searched for a signature no further than this (characters).
_SEARCHED = 64 << 10


class State(enum.StrEnum):
    """What a run found of a known issue."""

    SEEN = "seen"
    EXPIRED = "expired"
    #: The claim is kept: the issue is to be removed from the file.
    GONE = "gone"
    #: The claim was not found kept, but it did not fail by this signature either.
    NOT_SEEN = "not seen"
    #: It is of another profile or version, or its claim was not judged.
    NOT_APPLICABLE = "not applicable"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Extension(_Table):
    """One more stay: when it was granted, until when, and why."""

    on: datetime.date
    expires: datetime.date
    why: str = Field(min_length=1)


class Issue(_Table):
    """A failure that is known: how it looks, in which versions, who cares for it, and until when it is let through."""

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
        """The last day on which it is let through."""
        return self.extensions[-1].expires if self.extensions else self.expires

    def is_of(self, profile: str, version: str) -> bool:
        """Tells whether it is an issue of that version of that profile's OS; a version that is none is in no range."""
        if profile != self.profile:
            return False
        try:
            return not self.versions or SpecifierSet(self.versions).contains(Version(version), prereleases=True)
        except InvalidVersion:
            return False

    def explains(self, text: str) -> bool:
        """Tells whether the text of a failure bears its signature."""
        return re.search(self.signature, text[:_SEARCHED], re.MULTILINE) is not None

    @field_validator("claim")
    @classmethod
    def _is_a_claim(cls, claim: str) -> str:
        if claim not in catalogue():
            raise ValueError(f"there is no claim {claim}")
        return claim

    @field_validator("versions")
    @classmethod
    def _is_a_specifier(cls, versions: str) -> str:
        try:
            SpecifierSet(versions)
        except InvalidSpecifier:
            raise ValueError(f"{versions!r} is no version specifier, such as '>=3.4.0,<3.4.7'") from None
        return versions

    @field_validator("signature")
    @classmethod
    def _tells_something(cls, signature: str) -> str:
        try:
            if re.search(signature, ""):
                raise ValueError(f"{signature!r} fits every failure")
        except re.error as error:
            raise ValueError(f"{signature!r} is no regular expression: {error}") from None
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
class Known:
    """The known issues of a run, looked at on one day (UTC)."""

    issues: tuple[Issue, ...] = ()
    today: datetime.date

    def match(self, *, claim: str, profile: str, version: str, text: str) -> Match | None:
        """Returns the issue that explains a failure of that claim; one that has not expired comes first."""
        found = [issue for issue in self.issues
                 if issue.claim == claim and issue.is_of(profile, version) and issue.explains(text)]  # fmt: skip
        found.sort(key=lambda issue: issue.end, reverse=True)
        return Match(issue=found[0], expired=found[0].end < self.today) if found else None


def today() -> datetime.date:
    """Returns the date in UTC."""
    return datetime.datetime.now(datetime.UTC).date()


def load(paths: Iterable[Path], *, on: datetime.date) -> Known:
    """Reads known issues from TOML files.

    Raises:
        CallerError: a file cannot be read, or does not hold together.
    """
    issues = [issue for path in paths for issue in _issues(path)]
    for issue in issues:
        if latest := next((day for day in _starts(issue) if day > on), None):
            raise CallerError(f"the known issue {issue.link} begins on {latest}, after today ({on})",
                              hint="dates are in UTC; write the day on which it was found or extended")  # fmt: skip
    return Known(issues=tuple(issues), today=on)


def files(named: Iterable[Path], profile: str) -> list[Path]:
    """Returns the files that were named, and the one beside a profile that is a file."""
    beside = Path(profile).with_name("known-issues.toml")
    is_file = profile.endswith(".toml") and beside.is_file()
    return list(dict.fromkeys([*named, *([beside] if is_file else [])]))


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
        raise _refused(path, "holds something else than [[issue]] tables")
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
