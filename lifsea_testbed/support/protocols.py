"""A machine as its users see it: three small protocols, the seam for access methods, guest questions and other tools.

`Shell` runs commands, `Console` is a serial console that can be typed on and waited for, `Power` switches the machine.
`machine.Machine` is a Shell and a Power, each of its consoles (`console.Transcript`) is a Console. Code that needs a
machine takes the smallest of them, so that it works with another machine, or with a fake in its tests, as well: a
question to a guest takes a Shell, an access method takes a Console.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.lines import split_lines

#: How long a question to a guest may take on real hardware (seconds).
QUESTION = 20.0
#: A shell adds this to the number of the signal that ended a command (POSIX.1-2017, 2.8.2).
_BY_SIGNAL = 128


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The result of a command in the guest: status (128 + n after signal n), output and errors, duration in seconds."""

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
        """The signal that ended the command, derived from a status above 128, or None."""
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
        """The errors as text; bytes that are not UTF-8 are replaced."""
        return self.errors.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        """The lines of the output that are not empty."""
        return [line for line in split_lines(self.stdout) if line]


@dataclass(frozen=True, kw_only=True)
class ConsoleLine:
    """A printable line of a console and when its first byte arrived, in seconds after power-on."""

    at: float
    text: str

    def __str__(self) -> str:
        """The line as reports show it."""
        return f"[{self.at:9.3f}] {self.text}"


class Shell(Protocol):
    """Runs scripts as root in a guest."""

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = QUESTION,
            input: bytes = b"") -> CommandResult:
        """Runs a script, or the words of one command, and returns its result.

        `within` is in seconds on real hardware; `input` becomes its standard input.

        Raises:
            CommandFailed: the status was not 0, and `check` is set.
            WaitTimedOut: it took longer than `within`.
        """
        ...


class Console(Protocol):
    """A serial console: sends keys, and waits for lines and prompts."""

    @property
    def position(self) -> int:
        """The number of lines received so far."""
        ...

    def send(self, data: bytes) -> None:
        """Sends those bytes as if they were typed."""
        ...

    def wait_for(self, pattern: str, deadline: Deadline) -> ConsoleLine:
        """Returns the first complete line that matches the pattern.

        Raises:
            WaitTimedOut: no line matched in time.
            GuestCrashed, LaunchError: the machine ended first.
        """
        ...

    def wait_for_prompt(self, prompt: re.Pattern[str], position: int, deadline: Deadline) -> bool:
        """Waits for a line after that position, finished or not, that contains the prompt; returns whether one came.

        Raises:
            GuestCrashed, LaunchError: the machine ended first.
        """
        ...

    def tail(self, lines: int = 30) -> str:
        """Returns the last lines as text: evidence for an error."""
        ...


class Power(Protocol):
    """Switches a machine on and off; each method returns when its root shell is open, or when it is off."""

    def power_on(self) -> None:
        """Powers on.

        Raises:
            BootFailed, GuestCrashed: no root shell opened.
            LaunchError: QEMU did not start.
        """
        ...

    def power_off(self) -> None:
        """Shuts the guest down.

        Raises:
            WaitTimedOut: the guest did not go down.
        """
        ...

    def reboot(self) -> None:
        """Has the guest reboot.

        Raises:
            WaitTimedOut: the guest did not go down.
            BootFailed, GuestCrashed: no root shell opened.
        """
        ...

    def power_cut(self) -> None:
        """Cuts the power without a shutdown, and powers on again.

        Raises:
            BootFailed, GuestCrashed: no root shell opened.
        """
        ...

    def crash(self) -> None:
        """Has the guest's kernel panic, and powers on again.

        Raises:
            GuestFailure: the kernel did not panic.
            BootFailed, GuestCrashed: no root shell opened.
        """
        ...
