"""File capabilities (capabilities(7)): the attribute security.capability, read by whichever tool the image has."""

from __future__ import annotations

import re

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.support.protocols import CommandResult

#: The attribute of a file that has capabilities.
ATTRIBUTE = "security.capability"
#: Reads the capabilities of the files that the command `files` prints, each name ended by a NUL, with the first tool
#: that is there. tar is the last: its archives have attributes as headers (pax), of which no content is read here.
SCRIPT = """
if command -v getcap >/dev/null; then
    echo getcap
    {files} | xargs -0 -r getcap
elif command -v getfattr >/dev/null; then
    echo getfattr
    {files} | xargs -0 -r getfattr --absolute-names --no-dereference --name=security.capability
elif tar --version 2>/dev/null | grep -q GNU && tar --xattrs --help >/dev/null 2>&1; then
    echo tar
    {files} | xargs -0 -r -n 1 sh -c 'tar --create --file=- --xattrs --xattrs-include=security.capability \\
        --absolute-names --no-recursion "$0" | head -c 4096 | grep -q -a SCHILY.xattr.security.capability \\
        && printf "%s\\n" "$0"'
else
    exit 127
fi 2>/dev/null
exit 0
"""


def parse(result: CommandResult) -> list[str]:
    """Returns the paths that the tool named.

    Raises:
        NotJudged: there was none of the tools.
    """
    tool, *lines = result.lines or [""]
    if result.exit_status == 127 or not tool:
        raise NotJudged("the image has no tool that reads file capabilities (getcap, getfattr or GNU tar)",
                        Reason.IMAGE)
    if tool == "getfattr":
        return [line.removeprefix("# file: ") for line in lines if line.startswith("# file: ")]
    # getcap before 2.41 (libcap) prints `PATH = CAPABILITIES`.
    return [re.sub(r" (?:= )?\S+$", "", line) for line in lines] if tool == "getcap" else lines
