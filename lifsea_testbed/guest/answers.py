"""The answers of a guest, parsed: one that cannot be is the guest's fault, with the command and its output."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator

from lifsea_testbed.errors import AnswerUnreadable
from lifsea_testbed.support.protocols import CommandResult
from lifsea_testbed.support.sanitize import first_line, printable

#: How much of a script, and of what it printed, becomes evidence (characters).
_SCRIPT, _OUTPUT = 1000, 2000
#: What parsers raise on input that is not in the format that they read; UnicodeDecodeError is a ValueError.
_UNREADABLE = (ValueError, LookupError, ArithmeticError, RecursionError, struct.error)


@contextlib.contextmanager
def readable(*answers: CommandResult, expected: str = "") -> Iterator[None]:
    """Parse answers of the guest within this context: what a parser raises becomes AnswerUnreadable.

    Args:
        answers: what is parsed; the evidence is each command and the begin of its output.
        expected: the format that the parser reads.

    Raises:
        AnswerUnreadable: the parser raised a ValueError, LookupError, ArithmeticError, RecursionError or struct.error.
    """
    try:
        yield
    except _UNREADABLE as error:
        raise unreadable(*answers, why=f"{type(error).__name__}: {error}"[:200], expected=expected) from error


def unreadable(*answers: CommandResult, why: str, expected: str = "") -> AnswerUnreadable:
    """Returns the error for answers that cannot be read, with each command and the begin of its output as evidence."""
    commands = ", ".join(repr(first_line(answer.script)[:100]) for answer in answers)
    return AnswerUnreadable(f"the answer to {commands} cannot be read ({printable(why)})", evidence=_shown(answers),
                            expected=expected or "what the command prints by its manual",
                            hint="run the command in `lifsea-testbed shell`")


def first_words(answer: CommandResult) -> list[str]:
    """Returns the first word of each line.

    Raises:
        AnswerUnreadable: a line holds nothing but white space.
    """
    with readable(answer, expected="a name at the begin of each line"):
        return [line.split()[0] for line in answer.lines]


def number(text: str) -> float:
    """Returns a finite number; raises ValueError otherwise."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"no finite number: {text!r}")
    return value


def _shown(answers: tuple[CommandResult, ...]) -> str:
    return "\n".join(f"$ {answer.script.strip()[:_SCRIPT]}\n{printable(answer.output[:_OUTPUT])}"
                     f"{printable(answer.errors[:_OUTPUT])}[status {answer.exit_status}, {len(answer.output)} bytes]"
                     for answer in answers)
