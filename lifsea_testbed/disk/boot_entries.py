"""Boot entries (UAPI.1, Boot Loader Specification): text files, unified kernel images, and the order they boot in."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from lifsea_testbed.disk import pe
from lifsea_testbed.disk.filesystem import TreeEntry
from lifsea_testbed.support.lines import split_lines

_OSTREE = "ostree="
#: A counter in the name of an entry: tries left, and done (UAPI.1, "Boot counting").
_COUNTED = re.compile(r"(?a)(.+)\+(\d{1,9})(?:-(\d{1,9}))?(\.(?:conf|efi))")
_TOKEN = re.compile(r"[~^.-]|[0-9]+|[A-Za-z]+")
#: The order of separators in versions, with the end of one (UAPI.10, Version Format Specification).
_RANKS = {"~": 0, "-": 2, "^": 3, ".": 4}
_END, _LETTERS, _DIGITS = 1, 5, 6
#: The largest section of text in a unified kernel image that is read (bytes); Linux takes 2048 of a command line.
_LARGEST_TEXT = 64 << 10

VersionKey = tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, kw_only=True)
class BootEntry:
    """A boot entry: its file, what it is sorted by, its kernel, and the options on the kernel's command line.

    `tries_left` is None where its tries are not counted. A unified kernel image is its own kernel.
    """

    name: str = ""
    version: str = ""
    sort_key: str = ""
    machine: str = ""
    linux: str = ""
    options: tuple[str, ...] = ()
    tries_left: int | None = None
    tries_done: int = 0

    @property
    def identifier(self) -> str:
        """The name of its file without a counter, in lower case."""
        counted = _COUNTED.fullmatch(self.name)
        return (f"{counted[1]}{counted[4]}" if counted else self.name).lower()

    @property
    def deployment(self) -> str:
        """The path of the ostree deployment that it boots; empty if there is none."""
        return self.option(_OSTREE)

    def option(self, start: str) -> str:
        """Returns the rest of the last option that begins so; empty if there is none."""
        found = [option.removeprefix(start) for option in self.options if option.startswith(start)]
        return found[-1] if found else ""


def parse_entry(name: str, text: str) -> BootEntry:
    """Parses a boot entry of type 1, a text file of that name."""
    fields: dict[str, list[str]] = {}
    for line in split_lines(text):
        if words := line.split():
            fields[words[0]] = [*(fields.get(words[0], []) if words[0] == "options" else []), *words[1:]]
    return _counted(name, version=" ".join(fields.get("version", [])), sort_key=" ".join(fields.get("sort-key", [])),
                    machine=" ".join(fields.get("machine-id", [])), linux=" ".join(fields.get("linux", [])),
                    options=tuple(fields.get("options", [])))  # fmt: skip


def unified(name: str, place: TreeEntry) -> BootEntry | None:
    """Returns the boot entry of type 2 that a file of that name is; None where it is no unified kernel image."""
    sections = pe.sections(place.part(0, pe.HEAD))
    if ".linux" not in sections:
        return None
    release = _release(_text(place, sections, ".osrel"))
    version = next((release[key] for key in ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID") if key in release),
                   "")
    return _counted(name, version=version, sort_key=release.get("IMAGE_ID") or release.get("ID", ""), machine="",
                    linux=name, options=tuple(_text(place, sections, ".cmdline").split()))  # fmt: skip


def in_order(entries: Iterable[BootEntry]) -> list[BootEntry]:
    """Returns the entries in the order of systemd-boot's menu, of which the first boots (boot.c, boot_entry_compare).

    Those without a try left are at the end. ostree numbers its entries by version, the highest being the first.
    """
    rows = sorted(entries, key=lambda entry: (-(entry.tries_left or 0), entry.tries_done))
    rows.sort(key=lambda entry: version_key(entry.identifier), reverse=True)
    rows.sort(key=lambda entry: version_key(entry.version if entry.sort_key or entry.deployment else ""), reverse=True)
    rows.sort(key=lambda entry: (entry.tries_left == 0, not entry.sort_key, entry.sort_key, entry.machine))
    return rows


def first(entries: Iterable[BootEntry], wanted: Sequence[str] = ()) -> BootEntry | None:
    """Returns the entry that boots: the first that matches the first of the patterns that any matches, or the first.

    A pattern is of a shell's kind, for the identifier of an entry with or without its suffix.
    """
    rows = in_order(entries)
    for pattern in wanted:
        for entry in rows:
            if any(fnmatch.fnmatchcase(name, pattern.lower()) for name in _names(entry)):
                return entry
    return rows[0] if rows else None


def version_key(text: str) -> VersionKey:
    """Returns what versions are compared by (UAPI.10, Version Format Specification)."""
    return (*map(_rank, _TOKEN.findall(text)), (_END, 0, ""))


def _rank(token: str) -> tuple[int, int, str]:
    if token[0].isdigit():
        digits = token.lstrip("0")
        return _DIGITS, len(digits), digits
    return _RANKS.get(token, _LETTERS), 0, token


def _counted(name: str, *, version: str, sort_key: str, machine: str, linux: str,
             options: tuple[str, ...]) -> BootEntry:
    counted = _COUNTED.fullmatch(name)
    return BootEntry(name=name, version=version, sort_key=sort_key, machine=machine, linux=linux, options=options,
                     tries_left=int(counted[2]) if counted else None,
                     tries_done=int(counted[3] or 0) if counted else 0)  # fmt: skip


def _names(entry: BootEntry) -> tuple[str, str]:
    return entry.identifier, str(PurePosixPath(entry.identifier).with_suffix(""))


def _text(place: TreeEntry, sections: dict[str, tuple[int, int]], name: str) -> str:
    offset, size = sections.get(name, (0, 0))
    return place.part(offset, min(size, _LARGEST_TEXT)).decode("utf-8", "replace").partition("\0")[0]


def _release(text: str) -> dict[str, str]:
    """The fields of os-release(5), of which those that are used hold no quotation marks."""
    pairs = (line.split("=", 1) for line in split_lines(text) if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}
