"""A profile of the user's own, as text, with the figures of a released image to which later ones are held."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from lifsea_testbed.errors import CallerError
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.profiles.profile_files import SUFFIX, names
from lifsea_testbed.support.sanitize import printable

_WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class BaselineFigure:
    """What an image has: the key of the profile that takes it, its value, the claim it is judged by, and what it is."""

    key: str
    value: int | list[str]
    claim: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The figures of one image, in the order of their keys, and why others were not taken (key → reason).

    `source` names the image, `extends` is the profile by which it was read: a name, or the path of a file.
    """

    source: str
    extends: str
    base: Profile
    figures: tuple[BaselineFigure, ...]
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def added(self) -> list[str]:
        """The claims that the figures are judged by and that the profile did not make."""
        return [figure.claim for figure in self.figures if figure.claim not in self.base.claims]

    def profile(self, path: Path) -> str:
        """Returns the text of a profile that extends the one by which the image was read, for a file at that path."""
        base = os.path.relpath(self.extends, path.parent) if self.extends.endswith(SUFFIX) else self.extends
        head = [
            "# What a released image has, for people to review: what should not be in it is in this file as well.",
            *_comment(f"Read by lifsea-testbed baseline from {self.source}."),
            *(line for key, why in self.left.items() for line in _comment(f"Not taken: {key}: {why}.")),
            f"extends = {_text(base)}", f"name = {_text(path.stem)}",
            f"title = {_text(f'{self.base.title}, {path.stem}')}",
            *_list("adds", self.added),
        ]  # fmt: skip
        parts = ["\n".join(head)]
        for section, figures in groupby(self.figures, key=lambda figure: figure.key.partition(".")[0]):
            parts.append("\n".join([f"[{section}]", *(line for figure in figures for line in _figure(figure))]))
        return "\n\n".join(parts) + "\n"


def require_new(path: Path) -> None:
    """Makes sure that a profile can be written to that path.

    Raises:
        CallerError: it is no .toml file, bears the name of a built-in profile, exists already, or has no directory.
    """
    trouble = ""
    if path.suffix != SUFFIX:
        trouble = "a profile is a .toml file"
    elif path.stem in names():
        trouble = "is the name of a built-in profile"
    elif os.path.lexists(path):
        trouble = "exists already, and is never replaced"
    elif not os.access(path.parent, os.W_OK):
        trouble = "its directory does not exist, or cannot be written"
    if trouble:
        raise CallerError(f"--output {path}: {trouble}", hint="name a new file, such as -o my-os.toml")


def write_new(path: Path, text: str) -> None:
    """Writes the text into a new file.

    Raises:
        CallerError: there is such a file by now, or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CallerError(f"--output {path}: cannot be written: {error.strerror}", hint="name another file") from None


def _figure(figure: BaselineFigure) -> list[str]:
    name = figure.key.partition(".")[2]
    value = _list(name, figure.value) if isinstance(figure.value, list) else [f"{name} = {figure.value}"]
    return [*_comment(f"{figure.what} ({figure.claim})"), *value]


def _list(name: str, values: Iterable[str]) -> list[str]:
    items = [f"    {_text(value)}," for value in values]
    return [f"{name} = [", *items, "]"] if items else [f"{name} = []"]


def _text(value: str) -> str:
    """A string of TOML: as it stands where it can, which keeps regular expressions readable, or else with escapes."""
    if "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> list[str]:
    lines = [""]
    for word in printable(text).split():
        if len(lines[-1]) + len(word) + 3 > _WIDTH:
            lines.append("")
        lines[-1] += f" {word}"
    return [f"#{line}" for line in lines]
