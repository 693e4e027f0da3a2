"""The records of a machine, and the post-mortem records of one that failed: screen, memory, journal on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.disk.image import Image
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.offline import OfflineTree
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.support.confinement import Limits, confined
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.programs import run_tool
from lifsea_testbed.support.redact import Redactor
from lifsea_testbed.support.sanitize import printable, shortened

#: The largest record that grows with what a guest does (bytes), and how much of a text is read for one (characters): a
#: longer one loses its end before its secrets are searched, and then its middle.
_LARGEST_RECORD, _LONGEST_TEXT = 4 << 20, 64 << 20
MISSING = "missing.txt"
#: How long QEMU may take for a picture of the screen, and for a dump of the memory (seconds on the host).
_PICTURE, _DUMP = 10.0, 600.0
#: The largest journal file that is read from a disk (bytes; journald's own limit is 128 MiB), and the number of files.
_LARGEST, _MOST = 128 << 20, 8
_READING = 60.0
_READER = Limits(memory=4 << 30, cpu=int(_READING), file_size=0)


class Records:
    """Writes files into a directory that outlives the machine: printable, redacted, bounded."""

    def __init__(self, directory: Path, redactor: Redactor) -> None:
        self._directory = directory
        self._redactor = redactor
        self._attempted: set[str] = set()

    def write(self, name: str, text: str) -> None:
        """Writes a file, or replaces it; a text that is too long loses its middle, and says so."""
        shown = self._redactor.text(printable(text[:_LONGEST_TEXT]))
        cut = f"\n... cut at {_LONGEST_TEXT >> 20} MiB ...\n" if len(text) > _LONGEST_TEXT else ""
        (self._directory / name).write_text(shortened(shown + cut, _LARGEST_RECORD), "utf-8")

    def append(self, name: str, text: str) -> None:
        """Appends to a file, until it has reached the largest size of a record; its last line says so then."""
        path = self._directory / name
        size = path.stat().st_size if path.exists() else 0
        if size >= _LARGEST_RECORD:
            return
        shown = self._redactor.text(printable(text[:_LARGEST_RECORD]))
        cut = f"... cut at {_LARGEST_RECORD >> 20} MiB ...\n" if size + len(shown.encode()) >= _LARGEST_RECORD else ""
        with path.open("a", encoding="utf-8") as file:
            file.write(shown + cut)

    def attempt(self, name: str, make: Callable[[Path], None]) -> None:
        """Calls `make` with the path of a file; if that fails, missing.txt gets the reason, once."""
        first = not self.was_attempted(name)
        self._attempted.add(name)
        try:
            make(self._directory / name)
        except Exception as error:
            reason = split_lines(str(error) or type(error).__name__)[0]
            if first:
                self.append(MISSING, f"{name}: {reason}\n")

    def was_attempted(self, name: str) -> bool:
        """Returns whether `attempt` was called for that file."""
        return name in self._attempted

    def has(self, name: str) -> bool:
        """Returns whether that file exists."""
        return (self._directory / name).exists()


@dataclass(frozen=True, kw_only=True)
class Postmortem:
    """Collects records of a machine whose guest does not answer any more.

    `overlay` is the only layer above the image, or None where there are more: then the journal is not read from the
    disk. `directory` is for temporary files.
    """

    records: Records
    image: Image
    overlay: Path | None
    directory: Path
    dump_memory: bool

    def collect(self, boot: Boot, number: int) -> None:
        """Records screen and memory of that boot; if it has ended, closes it and reads the journal from the disk."""
        name, dump = f"screen-{number}.png", f"memory-{number}.kdump"
        if not (boot.liveness.ended and self.records.was_attempted(name)):
            self.records.attempt(name, lambda path: screen(boot, path))
        if self.dump_memory and not self.records.was_attempted(dump):
            self.records.attempt(dump, lambda path: memory(boot, path))
        if boot.liveness.ended:
            boot.close()
            self.collect_journal(number)

    def finish(self, number: int) -> None:
        """Reads the journal of a machine that failed and is off now."""
        if self.records.was_attempted(f"screen-{number}.png"):
            self.collect_journal(number)

    def collect_journal(self, number: int) -> None:
        """Records the journal on the disk, unless it was read through the guest's shell before."""
        name, overlay = f"journal-{number}.txt", self.overlay
        if overlay is not None and not self.records.has(name) and not self.records.was_attempted(name):
            self.records.attempt(name, lambda path: self.records.write(path.name, journal(
                self.image, overlay, self.directory)))  # fmt: skip


def screen(boot: Boot, path: Path) -> None:
    """Writes a picture of the machine's screen (PNG).

    Raises:
        TestbedError: QEMU is gone, does not answer, or refuses.
    """
    _write_by_qemu(boot, path, "screendump", {"format": "png"}, "filename", "{}", Deadline.after(_PICTURE))


def memory(boot: Boot, path: Path) -> None:
    """Writes the guest's memory as a compressed kdump, which crash(8) and drgn read; secrets in it are not redacted.

    Raises:
        TestbedError: QEMU is gone, does not answer, or refuses.
    """
    _write_by_qemu(boot, path, "dump-guest-memory", {"paging": False, "format": "kdump-zlib"}, "protocol", "file:{}",
                   Deadline.after(_DUMP))


def journal(image: Image, overlay: Path, directory: Path) -> str:
    """Returns the last boot's journal from the disk of a machine that is off; `directory` is for temporary files.

    journalctl reads files that are whole before it is started, and writes none.

    Raises:
        NotJudged: there is none on the disk, or it cannot be read offline.
        DiskDamaged: the disk contradicts itself.
        HostError: journalctl cannot be run, or did not end.
    """
    files = directory / "journal"
    files.mkdir()
    files.chmod(0o755)
    for number, content in enumerate(_files(image, overlay)):
        path = files / f"{number}.journal"
        with path.open("xb") as file:
            file.writelines(content)
        path.chmod(0o644)
    if not any(files.iterdir()):
        raise NotJudged("the disk has no journal (/var/log/journal)", Reason.IMAGE)
    command = ["journalctl", "--directory", str(files), "--boot", "--no-pager", "--quiet", "--output=short-monotonic"]
    with confined() as confinement:
        read = run_tool(confinement.wrap(command, limits=_READER, readable=[files]), within=_READING)
    if not read.stdout:
        raise NotJudged(f"journalctl cannot read the journal on the disk: {printable(read.stderr).strip()[-200:]}",
                        Reason.IMAGE)
    return printable(read.stdout)


def _files(image: Image, overlay: Path) -> Iterator[Iterator[bytes]]:
    """Yields the content of each file of the journal, in pieces."""
    offline = OfflineTree(image, overlay)
    yield from (offline.content(file) for file in offline.journal_files()[-_MOST:] if file.size <= _LARGEST)


def _write_by_qemu(boot: Boot, path: Path, command: str, arguments: dict[str, object], target: str, form: str,
                   deadline: Deadline) -> None:
    """Makes QEMU write to a file that is opened here, because it may open no file by name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        name = boot.monitor.add_descriptor(descriptor, deadline=deadline)
        boot.monitor.execute(command, {**arguments, target: form.format(name)}, deadline=deadline)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
