"""The kernel's log: from its ring buffer, and where that has wrapped from the journal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.support.protocols import Shell

# Each read(2) of /dev/kmsg returns one record, cleared by dmesg(1) or not (Documentation/ABI/testing/dev-kmsg).
_RING = "dd if=/dev/kmsg iflag=nonblock bs=8192 2>/dev/null"
_JOURNAL = "journalctl --dmesg --boot --no-pager --output=json --output-fields=PRIORITY,MESSAGE"
_RECORD = re.compile(r"(\d+),(\d+),(\d+),[^;]*;(.*)")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
#: The kernel's first message on every boot.
_FIRST = "Linux version "


@dataclass(frozen=True, kw_only=True)
class KernelMessage:
    """A kernel message, of one line or more, with its syslog priority (0 emergency … 7 debug)."""

    priority: int
    text: str


@dataclass(frozen=True, kw_only=True)
class KernelLog:
    """The messages of this boot, and whether they reach back to its start."""

    messages: tuple[KernelMessage, ...]
    is_complete: bool

    def require_complete(self) -> None:
        """Makes sure that what is not in the log was not logged.

        Raises:
            NotJudged: its start was overwritten.
        """
        if not self.is_complete:
            raise NotJudged("the kernel's ring buffer has wrapped, and no journal holds the start of this boot",
                            Reason.IMAGE)


def read(shell: Shell) -> KernelLog:
    """Returns the kernel's log: of the ring buffer, or of the journal where the buffer lacks the start of the boot."""
    answer = shell.run(_RING, check=False)
    with readable(answer, expected="records of /dev/kmsg"):
        ring = parse_records(answer.stdout)
    if ring is None:
        answer = shell.run("dmesg --raw")
        with readable(answer, expected="<N>text on each line"):
            ring = parse_dmesg(answer.lines)
    if ring.is_complete:
        return ring
    journal = parse_journal(shell.run(_JOURNAL, check=False).lines)
    known = {message.text for message in journal.messages}
    later = [message for message in ring.messages if message.text not in known]
    return KernelLog(messages=(*journal.messages, *later), is_complete=journal.is_complete)


def parse_records(text: str) -> KernelLog | None:
    """Reads records of /dev/kmsg: `priority,number,microseconds,flags;text`, then lines with a blank before them.

    The text of a message has its time before it, as dmesg prints it; None if there is no record.
    """
    found = [match for line in text.split("\n") if (match := _RECORD.fullmatch(line))]
    messages = tuple(KernelMessage(priority=int(match[1]) % 8,
                                   text=f"[{int(match[3]) / 1e6:12.6f}] {_unescaped(match[4])}")
                     for match in found)  # fmt: skip
    return KernelLog(messages=messages, is_complete=int(found[0][2]) == 0) if found else None


def parse_dmesg(lines: Iterable[str]) -> KernelLog:
    """Reads the lines of `dmesg --raw`: `<N>text`, N being facility * 8 + priority; other lines continue a message."""
    messages: list[KernelMessage] = []
    for line in lines:
        if match := re.match(r"<(\d+)>(.*)", line):
            messages.append(KernelMessage(priority=int(match[1]) % 8, text=match[2]))
        elif messages:
            messages[-1] = KernelMessage(priority=messages[-1].priority, text=f"{messages[-1].text}\n{line}")
    return _log(messages)


def parse_journal(lines: Iterable[str]) -> KernelLog:
    """Reads the journal's entries, a JSON object a line; a message that is no text is a list of bytes."""
    return _log([message for line in lines if (message := _entry(line))])


def _entry(line: str) -> KernelMessage | None:
    try:
        fields = json.loads(line)
        content = fields["MESSAGE"]
        text = content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")
        return KernelMessage(priority=int(fields.get("PRIORITY", 6)) % 8, text=text)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _log(messages: list[KernelMessage]) -> KernelLog:
    return KernelLog(messages=tuple(messages), is_complete=any(_FIRST in message.text for message in messages[:5]))


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
