"""Untrusted bytes from a guest, made safe to print."""

from __future__ import annotations

import hashlib
import re

from lifsea_testbed.support.lines import split_lines

# ECMA-48: CSI sequences, OSC strings ended by BEL or ST, and the two-byte escapes.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)
_STRINGS = re.compile(
    rb"\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-9;?>=]*[cn]|\x1b\[[0-9;]*t|\x05"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(data: bytes | str) -> str:
    """Returns the text without escape sequences; other control bytes are shown as `\\xNN`, newline and tab stay.

    Bytes that are not UTF-8 are shown as the replacement character. Carriage returns before a newline are dropped.
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").rstrip("\r")
    return _CONTROLS.sub(lambda control: f"\\x{ord(control.group()):02x}", text)


def harmless(data: bytes) -> bytes:
    """Returns a terminal's bytes without the strings that affect more than its screen: titles, clipboard, replies.

    Those are OSC, DCS, SOS, PM and APC (ECMA-48), and the requests to which a terminal replies with input.
    """
    return _STRINGS.sub(b"", data)


def first_line(script: str) -> str:
    """Returns the first line of a script, followed by the number of lines if there are more."""
    lines = split_lines(script.strip()) or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … ({len(lines)} lines)"


def slug(name: str, *, limit: int = 100) -> str:
    """Returns a safe file name, another for each name: the end of `dashed`, with a digest where that is lossy."""
    safe = dashed(name)[-limit:] or "unnamed"
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def dashed(name: str) -> str:
    """Returns the name with dashes in place of all characters but letters, digits and dots."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
