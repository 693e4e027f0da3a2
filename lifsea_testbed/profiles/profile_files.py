"""The files of profiles: where they lie, and how one extends another."""

from __future__ import annotations

import importlib.resources
import os
import tomllib
from pathlib import Path
from typing import Any

from lifsea_testbed.errors import ProfileRefused
from lifsea_testbed.profiles.claims import CATALOGUE

SUFFIX = ".toml"
#: The hint for whoever wrote a profile that is not valid.
DOCUMENTED = "see docs/profiles.md"


def names() -> list[str]:
    """Returns the names of the built-in profiles."""
    files = {entry.name for entry in importlib.resources.files("lifsea_testbed.profiles").iterdir()} - {CATALOGUE}
    return sorted(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX))


def read(name: str, *above: str) -> dict[str, Any]:
    """Returns the fields of a profile, laid over those of the one that it extends; `above` are those that extend it.

    Raises:
        ProfileRefused: there is no such profile, it is not TOML, or it extends itself.
    """
    if name in above:
        raise ProfileRefused(f"profile {name} extends itself", hint=DOCUMENTED)
    try:
        fields = tomllib.loads(_text(name))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ProfileRefused(f"profile {name}: not TOML: {error}", hint=DOCUMENTED) from None
    base, added, dropped = fields.pop("extends", None), fields.pop("adds", []), fields.pop("drops", [])
    if not isinstance(base, str | None) or not isinstance(added, list) or not isinstance(dropped, list):
        raise ProfileRefused(f"profile {name}: extends is the name of a profile, adds and drops are lists of claims",
                             hint=DOCUMENTED)
    if base:
        fields = _merged(read(_beside(name, base), name, *above), fields)
    if (added or dropped) and isinstance(claims := fields.get("claims", []), list):
        fields["claims"] = [*(claim for claim in claims if claim not in dropped), *added]
    return fields


def _text(name: str) -> str:
    if not name.endswith(SUFFIX):
        if name not in names():
            raise ProfileRefused(f"unknown profile {name!r}", hint=f"one of {', '.join(names())}, or a path to a .toml")
        return importlib.resources.files("lifsea_testbed").joinpath("profiles", name + SUFFIX).read_text("utf-8")
    if not Path(name).is_file():
        raise ProfileRefused(f"{name}: no such profile file", hint=f"one of {', '.join(names())}")
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileRefused(f"profile {name}: cannot be read: {error}", hint="a file of TOML in UTF-8") from None


def _beside(name: str, base: str) -> str:
    """The base of a profile: a built-in one, or a file, whose path is relative to the file that extends it."""
    return os.path.normpath(Path(name).parent / base) if base.endswith(SUFFIX) else base


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Returns the base overlaid with a profile: tables are merged key by key, other values are replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
