"""The records of a machine: the one place where what is kept of it is written, printable, masked and bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lifsea_testbed.support.redact import Redactor
from lifsea_testbed.support.sanitize import printable

#: The largest record that grows with what a guest does (bytes).
_LARGEST = 4 << 20
MISSING = "missing.txt"


class Records:
    """Writes files into a directory that stays when the machine is gone."""

    def __init__(self, directory: Path, redactor: Redactor) -> None:
        self._directory = directory
        self._redactor = redactor
        self._tried: set[str] = set()

    def write(self, name: str, text: str) -> None:
        """Writes a file anew."""
        (self._directory / name).write_text(self._redactor.text(printable(text)), "utf-8")

    def append(self, name: str, text: str) -> None:
        """Adds to a file, until that is as large as a record may become."""
        path = self._directory / name
        if not path.exists() or path.stat().st_size < _LARGEST:
            with path.open("a", encoding="utf-8") as file:
                file.write(self._redactor.text(printable(text)))

    def attempt(self, name: str, make: Callable[[Path], None]) -> None:
        """Has a file made; missing.txt says, once, why it could not be."""
        first = not self.was_attempted(name)
        self._tried.add(name)
        try:
            make(self._directory / name)
        except Exception as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            if first:
                self.append(MISSING, f"{name}: {why}\n")

    def was_attempted(self, name: str) -> bool:
        """Tells whether that file was to be made already."""
        return name in self._tried
