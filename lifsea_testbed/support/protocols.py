"""What a machine is, to whatever works with one: a shell that runs scripts, and how each of them ended."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

#: How long a question may take on real hardware (seconds).
QUESTION = 20.0
#: A shell adds this to the number of the signal that ended a command (POSIX.1-2017, 2.8.2).
_BY_SIGNAL = 128


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """How a command in the guest ended: its status (128 + n after signal n), its output and errors, seconds taken."""

    script: str
    exit_status: int
    output: bytes
    errors: bytes
    duration: float

    @property
    def ok(self) -> bool:
        """Whether the status was 0."""
        return self.exit_status == 0

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the command, as far as a shell can tell it from a status above 128."""
        try:
            return signal.Signals(self.exit_status - _BY_SIGNAL)
        except ValueError:
            return None

    @property
    def stdout(self) -> str:
        """The output as text; bytes that are not UTF-8 are replaced."""
        return self.output.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """The errors as text."""
        return self.errors.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        """The output's lines that are not empty."""
        return [line for line in self.stdout.splitlines() if line]


class Shell(Protocol):
    """Something that runs scripts as root in a guest."""

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = QUESTION,
            input: bytes = b"") -> CommandResult:
        """Runs a script, or the words of a command; with `check` a status other than 0 raises CommandFailed."""
        ...
