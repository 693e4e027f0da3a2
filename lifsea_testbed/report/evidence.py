"""Evidence: the files that a failed test leaves for the person who diagnoses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import slug

_TAIL = 30
#: The largest file and the largest bundle (bytes); a longer text keeps its beginning and its end.
_LARGEST, _LARGEST_BUNDLE = 1 << 20, 12 << 20
#: The suffix of memory dumps, which are too large to be copied.
_DUMPS = ".kdump"


@dataclass(frozen=True, kw_only=True)
class EvidenceMark:
    """A point in the life of a machine: the boot, and how many lines its console had printed."""

    boot: int
    position: int


#: The point at which every machine starts.
START = EvidenceMark(boot=0, position=0)


def mark(machine: Machine) -> EvidenceMark:
    """Returns the current point of the machine."""
    return EvidenceMark(boot=len(machine.boots) - 1, position=machine.boot.transcript.position)


def name_of(test: str, attempt: int) -> str:
    """Returns the name of the folder with the evidence of that attempt at a test."""
    return slug(test) + (f"-attempt-{attempt}" if attempt > 1 else "")


class Bundle:
    """The folder of one test, emptied first: bounded in size, secrets in its texts redacted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._left = _LARGEST_BUNDLE
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def write(self, name: str, text: str) -> None:
        """Adds a text with its secrets redacted; a text that is too long loses its middle."""
        data = _shortened(redact(text).encode("utf-8", "replace"))
        if len(data) <= self._left:
            self._left -= len(data)
            (self.folder / name).write_bytes(data)

    def machine(self, machine: Machine, since: EvidenceMark, *, prefix: str) -> None:
        """Adds the console output of a machine since the mark."""
        self.write(f"{prefix}transcript.txt", "\n".join(_lines(machine, since)) + "\n")

    def records(self, directory: Path, *, prefix: str, names: Iterable[str] = ()) -> None:
        """Adds the records of a machine, all of them or those of the given names."""
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
        """Adds about.txt, the page to begin with."""
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


def _lines(machine: Machine, since: EvidenceMark) -> list[str]:
    first, *later = machine.boots[since.boot :]
    lines = [str(line) for line in first.transcript.since(since.position)]
    for number, boot in enumerate(later, start=since.boot + 2):
        lines += [f"--- boot {number}", *map(str, boot.transcript.since())]
    return lines
