"""What the questions need of a machine: that it runs a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lifsea_testbed.console.channel import CommandResult

#: How long a question may take on real hardware (seconds).
QUESTION = 20.0


class Shell(Protocol):
    """Something that runs scripts as root in a guest."""

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = QUESTION,
            input: bytes = b"") -> CommandResult:
        """Runs a script, or the words of a command; with `check` a status other than 0 raises CommandFailed."""
        ...
