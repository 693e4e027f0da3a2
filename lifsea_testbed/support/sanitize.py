"""Untrusted bytes from a guest, made safe to print."""

from __future__ import annotations

import hashlib
import re

from lifsea_testbed.support.lines import split_lines

#: Escape sequences: control sequences, strings, and the short ones (ECMA-48, 5.4 to 5.6). A string without its end
#: goes no further than its line; the Linux console sets its palette by two that have none (console_codes(4)).
SEQUENCE = (r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\](?:R|P[0-9a-fA-F]{7}|[^\x07\x1b\n]*(?:\x07|\x1b\\)?)"
            r"|[PX^_][^\x1b\n]*(?:\x1b\\)?|[ -/]*[0-~])")  # fmt: skip
_SEQUENCES = re.compile(SEQUENCE)
#: Control characters (C0, C1), line separators, what no file (halves of a surrogate pair) or no XML takes (U+FFFE), and
#: what nobody sees: format characters, which change the direction of text or have no width, tags, fillers, variation
#: selectors (Unicode: categories Cc, Cf, Zl, Zp and Cs, and the property Default_Ignorable_Code_Point).
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]")
#: What the log readers of CI systems take for a command wherever it stands in a line (GitHub Actions and Azure
#: Pipelines: `##[`, `##vso[`; TeamCity: `##teamcity[`).
_LOG_COMMANDS = re.compile(r"#(?=#(?:\[|\w+\[))")


def printable(data: bytes | str) -> str:
    """Returns the text without escape sequences; other control characters are shown as `\\xNN` or `\\uNNNN`.

    Newline and tab stay. Bytes that are not UTF-8 are shown as the replacement character. Carriage returns before a
    newline are dropped.
    """
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = _SEQUENCES.sub("", text).replace("\r\n", "\n").rstrip("\r")
    return _CONTROLS.sub(lambda control: _escaped(control.group()), text)


def log_text(text: str) -> str:
    """Returns a guest's text for the log of a CI system, which takes no line of it for a command.

    A command begins a line, after blanks (`::error`, GitHub Actions; `--- `, Buildkite; `section_start:`, GitLab): each
    line begins with a bar. Or it has a marker anywhere in a line: the marker is broken up.
    """
    return f"| {log_lines(text)}"


def log_lines(text: str) -> str:
    """Returns a text that begins with words of the test bed's own for such a log: every later line has the bar."""
    return log_line(text).replace("\n", "\n| ")


def log_line(text: str) -> str:
    """Returns a guest's text that stands behind other words of one line of a CI log, without markers of commands."""
    return _LOG_COMMANDS.sub(r"\\x23", printable(text))


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def first_line(script: str) -> str:
    """Returns the first line of a script, followed by the number of lines if there are more."""
    lines = split_lines(script.strip()) or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … ({len(lines)} lines)"


def shortened(text: str, most: int) -> str:
    """Returns a text of at most so many bytes in UTF-8: a longer one loses its middle, and says how much that is."""
    data = text.encode("utf-8", "replace")
    if len(data) <= most:
        return text
    half = max(0, most // 2 - 50)
    begin, end = data[:half].decode("utf-8", "ignore"), data[len(data) - half:].decode("utf-8", "ignore")
    return f"{begin}\n... {len(data) - 2 * half} bytes are left out here ...\n{end}"


def slug(name: str, *, limit: int = 100) -> str:
    """Returns a safe file name, another for each name: the end of `dashed`, with a digest where that is lossy."""
    safe = dashed(name)[-limit:] or "unnamed"
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def dashed(name: str) -> str:
    """Returns the name with dashes in place of all characters but letters, digits and dots."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
