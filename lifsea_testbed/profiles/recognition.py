"""Recognises the OS of an image by its release files, and chooses the profile that is made for it, or none."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lifsea_testbed.errors import ProfileRefused
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import IdentitySection, Profile
from lifsea_testbed.profiles.versions import OsVersion
from lifsea_testbed.support.sanitize import printable

#: The fields of os-release(5) that tell one OS from another, in the order in which a message shows them.
_SHOWN = ("ID", "VARIANT_ID", "VERSION_ID")
_LONGEST = 80
_RELEASE = re.compile(r"\brelease\s+(\S+)")


@dataclass(frozen=True, kw_only=True)
class ReleaseFacts:
    """What a disk tells of its OS.

    `os_release` are the fields of os-release(5), `system_release` is the text of /etc/system-release, `files` are those
    paths of `marker_files()` that exist, `place` names the file system that was read.
    """

    os_release: Mapping[str, str] = field(default_factory=dict)
    system_release: str = ""
    files: frozenset[str] = frozenset()
    place: str = ""

    @property
    def version(self) -> OsVersion:
        """The version as exactly as the files state it: a VERSION or a system-release may refine VERSION_ID."""
        rough = OsVersion.parse(self.os_release.get("VERSION_ID", ""))
        named = _RELEASE.search(self.system_release)
        texts = (self.os_release.get("VERSION", ""), named[1] if named else "")
        finer = [version for version in map(OsVersion.parse, texts) if version.refines(rough)]
        return max([rough, *finer], key=lambda version: len(version.numbers))

    def __str__(self) -> str:
        """The fields by which a profile is chosen, on one line."""
        fields = [f"{name}={self.os_release[name]}" for name in _SHOWN if self.os_release.get(name)]
        release = self.system_release.strip().partition("\n")[0]
        shown = [*fields, *([f"system-release {release}"] if release else [])]
        return ", ".join(printable(text)[:_LONGEST] for text in shown) or "no ID"


@dataclass(frozen=True, kw_only=True)
class ProfileChoice:
    """The name of a profile, or the path of its file, and why it was chosen."""

    name: str
    why: str


def choose(facts: ReleaseFacts) -> ProfileChoice:
    """Returns the built-in profile that is made for that OS and version.

    Where the version is known too roughly to decide, as with VERSION_ID=3, the marker files decide between the profiles
    that name some; one without marker files is chosen by its version alone, or where it is the only one left.

    Raises:
        ProfileRefused: no profile is made for it, or more than one may be; the hint has the names of all.
    """
    known = [profile for profile in _built_in() if is_of(profile.identity, facts)]
    sure = [profile for profile in known if profile.identity.range.holds(facts.version)]
    maybe = [profile for profile in known if profile.identity.range.may_hold(facts.version)]
    marked = [profile for profile in maybe if profile.identity.has or profile.identity.lacks]
    fitting = sure or ([profile for profile in marked if _has_marks(profile.identity, facts)] if marked else maybe)
    if len(fitting) != 1:
        found = f"fits more than one profile: {_names(fitting)}" if fitting else "fits no profile"
        raise ProfileRefused(f"--profile auto: the image's release ({facts}{_where(facts)}) {found}", hint=hint())
    identity = fitting[0].identity
    marks = "" if sure else f", by its files ({_marks_shown(identity)})"
    versions = f", versions {identity.versions}" if identity.versions else ""
    return ProfileChoice(name=fitting[0].name, why=f"chosen by {facts}{_where(facts)}{versions}{marks}")


def is_of(identity: IdentitySection, facts: ReleaseFacts) -> bool:
    """Returns whether these are the facts of that OS and variant, in any version; system-release overrides ID."""
    release = facts.system_release.strip()
    others = [profile.identity.system_release for profile in _built_in() if profile.identity.system_release]
    if claimed := [text for text in others if release.startswith(text)]:
        return identity.system_release in claimed
    return facts.os_release.get("ID") == identity.os_id and \
        identity.variant_id in ("", facts.os_release.get("VARIANT_ID"))  # fmt: skip


def marker_files() -> frozenset[str]:
    """Returns the paths by whose presence or absence built-in profiles tell release lines apart."""
    return frozenset(path for profile in _built_in() for path in (*profile.identity.has, *profile.identity.lacks))


def hint() -> str:
    """Returns the way out for a user whose image was not recognised."""
    return f"name one with --profile: {_names(_built_in())}, or a .toml file of your own (docs/your-own-os.md)"


@functools.cache
def _built_in() -> tuple[Profile, ...]:
    return tuple(map(profiles.load, profiles.names()))


def _has_marks(identity: IdentitySection, facts: ReleaseFacts) -> bool:
    return facts.files.issuperset(identity.has) and facts.files.isdisjoint(identity.lacks)


def _marks_shown(identity: IdentitySection) -> str:
    return ", ".join([*(f"has {path}" for path in identity.has), *(f"lacks {path}" for path in identity.lacks)]) \
        or "no mark"  # fmt: skip


def _names(found: Sequence[Profile]) -> str:
    return ", ".join(profile.name for profile in found)


def _where(facts: ReleaseFacts) -> str:
    return f" on {facts.place}" if facts.place else ""
