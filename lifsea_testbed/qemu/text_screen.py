"""The text on a machine's screen: what firmware, boot loader and kernel write where no serial port is used."""

from __future__ import annotations

import re

from lifsea_testbed.qemu.qmp import Monitor
from lifsea_testbed.support.deadline import Deadline

#: The screen in text mode 3 of VGA (IBM, PS/2 Hardware Interface Technical Reference: video subsystem): where it begins
#: in memory, its columns and rows, and the bytes of a character with its attribute.
_START, _COLUMNS, _ROWS, _CELL = 0xB8000, 80, 25, 2
_WORD = 8
#: A program uses few attributes (colours) at once; in a graphics mode the memory holds anything.
_MOST_ATTRIBUTES = 16
#: The rows, counted from the last that is not empty, and the characters of them, that make a summary.
_LAST_ROWS, _LONGEST = 3, 200


def read(monitor: Monitor, deadline: Deadline) -> str:
    """Returns the rows of the screen, without the blanks that end them; nothing if it is empty, or shows graphics.

    Raises:
        TestbedError: QEMU is gone, or does not answer.
    """
    words = _COLUMNS * _ROWS * _CELL // _WORD
    dump = monitor.execute("human-monitor-command", {"command-line": f"xp /{words}xg {_START:#x}"}, deadline=deadline)
    return parse(str(dump))


def parse(dump: str) -> str:
    """Returns the rows of the screen in a dump of its memory by QEMU's command `xp`."""
    words = [int(word, 16) for line in dump.split("\n") for word in re.findall(r" 0x([0-9a-f]{16})\b", line)]
    memory = b"".join(word.to_bytes(_WORD, "little") for word in words)
    characters, attributes = memory[::_CELL], memory[1::_CELL]
    if len(set(attributes)) > _MOST_ATTRIBUTES or any(0 < byte < ord(" ") for byte in characters):
        return ""
    text = characters.replace(b"\0", b" ").decode("cp437")
    rows = [text[start:start + _COLUMNS].rstrip() for start in range(0, len(text), _COLUMNS)]
    return "\n".join(rows).strip("\n")


def summary(screen: str) -> str:
    """Returns the last rows of a screen that are not empty, as a part of a sentence; nothing for an empty screen."""
    rows = [" ".join(row.split()) for row in screen.split("\n") if row.strip()]
    text = " / ".join(rows[-_LAST_ROWS:])[-_LONGEST:]
    return f"; on the screen: {text!r}" if text else ""
