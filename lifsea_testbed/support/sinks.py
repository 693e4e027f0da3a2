"""Text of a guest or an image in the formats of reports: one function for each, whose result is text to its reader.

All of them show control and invisible characters as escapes first. JUnit and other XML that a library writes need no
more than that (`sanitize.printable`); logs of CI systems and file names have their functions in `sanitize`, too.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any

from lifsea_testbed.support.sanitize import log_line, printable

_BACKTICKS = re.compile(r"`+")
#: An address of which a link in Markdown may be made: no character in it has a meaning in Markdown, HTML or a table.
_ADDRESS = re.compile(r"https?://[A-Za-z0-9./?=&%#~:+_-]+")


def markdown(text: str) -> str:
    """Returns the text as a code span of GitHub's Markdown, also for a cell of a table; nothing for an empty one.

    In a code span nothing is markup, an address is no link, and GitHub looks for no user (`@name`), issue (`#1`) or
    emoji (`:name:`), which it does in escaped text (GitHub Flavored Markdown, 6.3; a bar ends a cell there as well).
    """
    text = " ".join(printable(text).split()).replace("|", "\\|")
    if not text:
        return ""
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(text)), default=0))
    gap = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def markdown_link(address: str) -> str:
    """Returns an address as a link of Markdown if it is one of the web in plain characters, and as text otherwise."""
    return f"<{address}>" if _ADDRESS.fullmatch(address) else markdown(address)


def markup(text: str) -> str:
    """Returns the text for the content of an element of HTML or SVG, or for a quoted attribute with plain text."""
    return html.escape(printable(text))


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Returns the value as JSON in ASCII, which may stand in a script of an HTML page as well.

    Raises:
        ValueError: the value holds a number that is not finite.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, indent=indent, separators=separators, allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c")


def property_value(text: str) -> str:
    """Returns the text as a value of a Java properties file: one line, without backslashes."""
    return " ".join(printable(text).replace("\\", "/").split())


def workflow_message(text: str) -> str:
    """Returns the text as the message of a workflow command of GitHub Actions (actions/toolkit, command.ts)."""
    return log_line(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def workflow_property(text: str) -> str:
    """Returns the text as a property of a workflow command of GitHub Actions."""
    return workflow_message(text).replace(":", "%3A").replace(",", "%2C")
