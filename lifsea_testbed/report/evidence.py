"""Evidence: the files that a failed test leaves for the person who diagnoses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import shortened, slug

_TAIL = 30
#: The largest file and the largest bundle (bytes); a longer text keeps its beginning and its end.
_LARGEST, _LARGEST_BUNDLE = 1 << 20, 12 << 20
#: The suffix of memory dumps, which are too large to be copied.
_DUMPS = ".kdump"
_ABOUT = "about.txt"


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
    """The folder of one test, emptied first: bounded in size, secrets in its texts redacted.

    What is written first has room for certain. `about` has room in any case, and names the files that had none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._left = _LARGEST_BUNDLE - _LARGEST
        self._left_out: list[str] = []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, text: str) -> None:
        """Adds a text with its secrets redacted; a text that is too long loses its middle."""
        self._write(name, text, source=name)

    def machine(self, machine: Machine, since: EvidenceMark, *, prefix: str) -> None:
        """Adds the console output of a machine since the mark."""
        self.write(f"{prefix}transcript.txt", "\n".join(_lines(machine, since)) + "\n")

    def records(self, directory: Path, *, prefix: str, names: Iterable[str] = ()) -> None:
        """Adds the records of a machine, all of them or those of the given names."""
        wanted = set(names)
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            if not path.is_file() or path.is_symlink() or (wanted and path.name not in wanted):
                continue
            self._add(path, f"{prefix}{path.name}")

    def about(self, facts: Mapping[str, str]) -> None:
        """Writes about.txt, the page to begin with; written again, it replaces the one before."""
        files = "".join(f"  {path.name}\n" for path in sorted(self.folder.iterdir()) if path.name != _ABOUT)
        left_out = "".join(f"  {name}\n" for name in self._left_out)
        text = "".join(f"{name}: {value}\n" for name, value in facts.items()) + f"files:\n{files}"
        text += f"left out, the evidence of a test takes at most {_LARGEST_BUNDLE >> 20} MiB:\n{left_out}" \
            if left_out else ""
        (self.folder / _ABOUT).write_text(shortened(redact(text), _LARGEST), "utf-8", "replace")

    def _add(self, path: Path, name: str) -> None:
        if path.suffix == ".txt":
            self._write(name, path.read_text("utf-8", "replace"), source=str(path))
        elif self._takes(path.stat().st_size, most=0 if path.suffix == _DUMPS else _LARGEST, source=str(path)):
            shutil.copy2(path, self.folder / name)

    def _write(self, name: str, text: str, *, source: str) -> None:
        data = shortened(redact(text), _LARGEST).encode("utf-8", "replace")
        if self._takes(len(data), most=_LARGEST, source=source):
            (self.folder / name).write_bytes(data)

    def _takes(self, size: int, *, most: int, source: str) -> bool:
        """Returns whether there is room for a file of that size; one without room is named in about.txt."""
        if size > min(self._left, most):
            self._left_out.append(f"{source} ({size >> 10} KiB)")
            return False
        self._left -= size
        return True


def tail(machine: Machine) -> str:
    """Returns the last lines of the console."""
    return machine.boot.transcript.tail(_TAIL) if machine.boots else ""


def _lines(machine: Machine, since: EvidenceMark) -> list[str]:
    first, *later = machine.boots[since.boot :]
    lines = [str(line) for line in first.transcript.since(since.position)]
    for number, boot in enumerate(later, start=since.boot + 2):
        lines += [f"--- boot {number}", *map(str, boot.transcript.since())]
    return lines
