"""Evidence: what a test leaves for the person who has to find out why."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import slug

_TAIL = 30
#: What a file, and a bundle, may come to (bytes); a longer text keeps its beginning and its end.
_LARGEST, _LARGEST_BUNDLE = 1 << 20, 12 << 20
#: What is left where it was made: it is too large to be copied.
_DUMPS = ".kdump"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A place in the story of a machine: which boot, and how many lines its console had printed."""

    boot: int
    position: int


#: The place where every machine starts.
START = Mark(boot=0, position=0)


def mark(machine: Machine) -> Mark:
    """Returns the place where the machine stands now."""
    return Mark(boot=len(machine.boots) - 1, position=machine.boot.transcript.position)


def name_of(test: str, attempt: int) -> str:
    """Returns the name of the folder that has the evidence of that attempt at a test."""
    return slug(test) + (f"-attempt-{attempt}" if attempt > 1 else "")


class Bundle:
    """A folder of one test's own, begun anew: bounded, its texts masked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._left = _LARGEST_BUNDLE
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def write(self, name: str, text: str) -> None:
        """Adds a text, its secrets masked, its middle cut out if it is too long."""
        data = _shortened(redact(text).encode("utf-8", "replace"))
        if len(data) <= self._left:
            self._left -= len(data)
            (self.folder / name).write_bytes(data)

    def machine(self, machine: Machine, since: Mark, *, prefix: str) -> None:
        """Adds what the console of a machine said since the mark."""
        self.write(f"{prefix}transcript.txt", "\n".join(_lines(machine, since)) + "\n")

    def records(self, directory: Path, *, prefix: str, names: Iterable[str] = ()) -> None:
        """Adds what is on record of a machine, or those of its records."""
        wanted = set(names)
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            if not path.is_file() or path.is_symlink() or (wanted and path.name not in wanted):
                continue
            if path.suffix == ".txt":
                self.write(f"{prefix}{path.name}", path.read_text("utf-8", "replace"))
            elif path.suffix != _DUMPS and (size := path.stat().st_size) <= min(self._left, _LARGEST):
                self._left -= size
                shutil.copy2(path, self.folder / f"{prefix}{path.name}")

    def about(self, facts: Mapping[str, str]) -> None:
        """Adds the page to begin with."""
        files = "".join(f"  {path.name}\n" for path in sorted(self.folder.iterdir()))
        self.write("about.txt", "".join(f"{name}: {value}\n" for name, value in facts.items()) + f"files:\n{files}")


def tail(machine: Machine) -> str:
    """Returns the last lines of the console."""
    return machine.boot.transcript.tail(_TAIL) if machine.boots else ""


def _shortened(data: bytes) -> bytes:
    if len(data) <= _LARGEST:
        return data
    half = _LARGEST // 2 - 100
    return b"%s\n... %d bytes are left out here ...\n%s" % (data[:half], len(data) - 2 * half, data[-half:])


def _lines(machine: Machine, since: Mark) -> list[str]:
    first, *later = machine.boots[since.boot :]
    lines = [str(line) for line in first.transcript.since(since.position)]
    for number, boot in enumerate(later, start=since.boot + 2):
        lines += [f"--- boot {number}", *map(str, boot.transcript.since())]
    return lines
