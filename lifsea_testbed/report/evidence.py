"""Evidence: what a test leaves for the person who has to find out why."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.machine import Machine
from lifsea_testbed.text import slug

_TAIL = 30


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


def collect(machine: Machine, since: Mark, directory: Path, test: str, *, failed: bool) -> Path:
    """Leaves what the machine did since the mark in a folder of the test's own, and returns that folder.

    It holds what the console said, and QEMU's command line; after a failure also the journal and everything that is
    on record of the machine.
    """
    folder = directory / slug(test)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transcript.txt").write_text("\n".join(_lines(machine, since)) + "\n", "utf-8")
    if failed:
        machine.save_evidence()
    for record in machine.records.iterdir() if folder != machine.records else ():
        if failed or record.name == "qemu-argv.txt":
            shutil.copy2(record, folder / f"machine-{record.name}" if record.name == "transcript.txt" else folder)
    return folder


def tail(machine: Machine) -> str:
    """Returns the last lines of the console."""
    return machine.boot.transcript.tail(_TAIL) if machine.boots else ""


def _lines(machine: Machine, since: Mark) -> list[str]:
    first, *later = machine.boots[since.boot :]
    lines = [str(line) for line in first.transcript.since(since.position)]
    for number, boot in enumerate(later, start=since.boot + 2):
        lines += [f"--- boot {number}", *map(str, boot.transcript.since())]
    return lines
