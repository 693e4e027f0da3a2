"""What reads a guest's text takes time in proportion to its length, whatever the guest repeats in it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import lifsea_testbed
from lifsea_testbed.console import fatal_lines
from lifsea_testbed.console.serial_frames import Splitter
from lifsea_testbed.console.transcript import LineReader
from lifsea_testbed.errors import CommandFailed, Explained, NotJudged
from lifsea_testbed.support import sanitize, sinks
from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.terminal_filter import TerminalFilter

Reads = Callable[[str], object]
#: Characters, lines and beginnings that parsers look for, repeated to any length.
REPEATED = (
    "x", "0", " ", "\n", "\t", "=", ":", ";", ",", "/", "\\", "'", '"', "(", "[", "{", "<", "-", ".", "#", "%", "|",
    "\0", "\r", "x ", "0 ", "a=b\n", "a='", "a b ", "a:b:c:d\n", "/x", "../", "[[", "(a", "\\x20", "\x1b", "\x1b]",
    "\x1b[1", "\x1b[;", "1,2,3,-;x\n", "<6>x\n", "[    1.000000] ", "\r[    1.000000] ", "login: ", "Password: ",
    "\x1e0123456789abcdef ", "0x0-", "BUG: soft lockup", "INFO: task ", "rcu: ", "error: ", "oom-kill:", "abcdef.",
    "eyJ-", "eyJaaaaaaaaa.", "-eyJaaaaaaaa", "-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN A ", "token: ", "token-", "password      ", "$argon2", "$6$",
    "authorization: bearer ", "LTAIA", "LS0tLS1CRUdJTi", "`", "a`", "%0A", "LS0tLS1CRUdJTiBDRVJUSUZJ", "é", "\u202e",
    "{\"a\":", "processor\t: 0\n", "0: 0100007F:0016 0:0 0A\n", "a\n\n", "sl local\n", "@daily x\n", "* * * * * x\n",
    "Package: x\n\n", "x.service\n", "SUBSYSTEM==\"x\", ", "\n ", "\\\n", "a\0",
)  # fmt: skip
#: The lengths that are compared (characters), two doublings apart, and by how much the time may grow from one to the
#: other: 4 times in a linear reader, 16 times in a quadratic one. What takes less time (seconds) is fast enough.
SHORT, LONG, GROWTH, FAST = 8 << 10, 32 << 10, 3.2**2, 0.01


def parsers() -> Iterator[tuple[str, Reads]]:
    """Every public parser of the package that takes nothing but a text, or its lines."""
    for module in pkgutil.walk_packages(lifsea_testbed.__path__, "lifsea_testbed."):
        if module.name.rpartition(".")[2] not in ("__main__", "entry", "env") and "migrations" not in module.name:
            loaded = importlib.import_module(module.name)
            for name, function in inspect.getmembers(loaded, inspect.isfunction):
                reads = as_text(function) if name.startswith("parse") and function.__module__ == module.name else None
                if reads is not None:
                    yield f"{module.name.removeprefix('lifsea_testbed.')}.{name}", reads


def as_text(function: Callable[..., Any]) -> Reads | None:
    """The function as one of a text, or None if it takes something else."""
    needed = [each for each in inspect.signature(function).parameters.values() if each.default is each.empty]
    takes = str(needed[-1].annotation) if needed else ""
    given = ["name"] * (len(needed) - 1)
    if any(str(each.annotation) not in ("str", takes) for each in needed[:-1]):
        return None
    if takes == "str":
        return lambda text: function(*given, text)
    if takes == "bytes":
        return lambda text: function(*given, text.encode("utf-8", "replace"))
    if takes in ("Iterable[str]", "list[str]", "Sequence[str]"):
        return lambda text: function(*given, text.split("\n"))
    return None


def fed(make: Callable[[], Any], text: str) -> None:
    """Feeds the text to a stream's reader in the pieces in which a console delivers it."""
    reader, data = make(), text.encode("utf-8", "replace") + b"\n"
    for at in range(0, len(data), 4096):
        found = reader.feed(data[at : at + 4096], 0.0) if make is LineReader else reader.feed(data[at : at + 4096])
        for line in found if make is LineReader else ():
            fatal_lines.find(line.text)


OWN: dict[str, Reads] = {
    "redact": redact, "printable": sanitize.printable, "log_text": sanitize.log_text, "slug": sanitize.slug,
    "shortened": lambda text: sanitize.shortened(text, 1000),
    "error": lambda text: str(CommandFailed(text, evidence=text)),
    "markdown": sinks.markdown, "markdown_link": sinks.markdown_link, "markup": sinks.markup,
    "json_text": sinks.json_text, "property_value": sinks.property_value, "workflow_message": sinks.workflow_message,
    "TerminalFilter": partial(fed, TerminalFilter), "LineReader": partial(fed, LineReader),
    "Splitter": partial(fed, Splitter),
}  # fmt: skip
ALL = {**OWN, **dict(parsers())}


def seconds(reads: Reads, text: str) -> float:
    """The processor time for reading the text; that it cannot be parsed is no concern of this test."""
    started = time.process_time()
    with contextlib.suppress(Explained, NotJudged, ValueError, LookupError, ArithmeticError, RecursionError):
        reads(text)
    return time.process_time() - started


def grows(reads: Reads, unit: str) -> bool:
    """Whether the time grows by more than the length does.

    It is measured up to six times: other processes of the host disturb one measurement or two, and lengthen it only.
    """
    if seconds(reads, unit * (LONG // len(unit))) < FAST:
        return False
    for times in (1, 2, 3):
        short, long = (min(seconds(reads, unit * (length // len(unit))) for _ in range(times))
                       for length in (SHORT, LONG))  # fmt: skip
        if long < max(FAST, GROWTH * short):
            return False
    return True


@pytest.mark.parametrize("name", ALL)
def test_a_text_four_times_as_long_takes_no_more_than_about_four_times_the_time(name: str) -> None:
    assert [unit for unit in REPEATED if grows(ALL[name], unit)] == []


def test_the_parsers_are_found() -> None:
    assert len(ALL) > 40 and {"guest.system.parse_os_release", "guest.network.parse_sockets"} <= set(ALL)


def test_a_quadratic_reader_is_found() -> None:
    # A search for one character is too fast for it: what each step costs besides would hide the growth.
    assert grows(lambda text: [text[:at].swapcase() for at in range(0, len(text), 8)], "x")
