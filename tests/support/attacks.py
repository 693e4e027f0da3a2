"""Texts by which a guest attacks whoever reads a report: what a terminal, a CI system, a browser or GitHub obeys."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: What a terminal obeys beyond its screen, or answers as if keys were typed (ECMA-48, xterm's ctlseqs, kitty, tmux).
TERMINAL = (
    "\x1b]0;OWNED\x07", "\x1b]2;OWNED\x1b\\", "\x1bkOWNED\x1b\\", "\x1b]52;c;T1dORUQ=\x07", "\x1b]52;c;?\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\", "\x1b]4;1;?\x07", "\x1b]10;?\x07", "\x1b]11;?\x1b\\",
    "\x1bPtmux;\x1b\x1b]0;OWNED\x07\x1b\\", "\x1bP$qm\x1b\\", "\x1bP+q544e\x1b\\", "\x1b[c", "\x1b[>c", "\x1b[=c",
    "\x1b[5n", "\x1b[6n", "\x1b[?6n", "\x1b[>q", "\x1b[?25$p", "\x1b[0x", "\x1bZ", "\x1b[?u", "\x1b[1;1;1;1;1;1*y",
    "\x1b[1$w", "\x1b[5i", "\x1b[?1000h", "\x1b[?1002h", "\x1b[?1004h", "\x1b[?1006h", "\x1b[?2004h", "\x1b[?1h",
    "\x1b=", "\x1b[21t", "\x1b[18t", "\x1b[4h", "\x1b[?9001h", "\x1b[6\x07n", "\x1b[\x1b[6n", "\x05", "\x9b6n",
    "\x9d0;OWNED\x9c", "\x1b]0;no end", "\x1bc", "\x1b_Gi=1;AAAA\x1b\\", "\x1b^OWNED\x1b\\",
)  # fmt: skip
#: What CI systems take for a command, at the begin of a line or anywhere in it.
CI_LOG = (
    "::error file=x,line=1::OWNED", "::stop-commands::OWNED", "  ::add-mask::a", "::set-output name=a::b",
    "::debug::x", "ok\n::set-env name=PATH::/evil", "a\r::warning::x", "a\r\n::notice::x", "a\x0b::error::x",
    "a\x0c::error::x", "a\u0085::error::x", "a\u2028::error::x", "##[error]OWNED", "x ##[add-mask]a", "##[group]x",
    "##vso[task.setvariable variable=a]b", "x ##vso[task.complete result=Succeeded;]",
    "##teamcity[buildStatus text='x']", "###[command]x", "##\x1b[0m[error]x", "##\u200b[error]x",
    "section_start:1560896352:x[collapsed=true]\r\x1b[0KOWNED", "--- OWNED", "+++ OWNED", "~~~ OWNED", "^^^ +++",
    "travis_fold:start:x\r", "\x1b[8mha:////AAAA\x1b[0m", "\x1b_bk;t=1\x07OWNED",
)  # fmt: skip
#: What HTML and SVG read as markup, in text, in an attribute, in a script.
MARKUP = (
    "<script>window.owned=1</script>", "</script><script>window.owned=1</script>",
    "</title><script>window.owned=1</script>", "<img src=x onerror=window.owned=1>", "<img src=//evil.example/x>",
    "\"><svg onload=window.owned=1>", "' onmouseover='window.owned=1", "</text></svg><script>window.owned=1</script>",
    "<a href=javascript:window.owned=1>x</a>", "javascript:window.owned=1", "<iframe src=//evil.example>", "<!--",
    "]]>", "<![CDATA[x]]>", "&lt;script&gt;", "&#x3c;b>", "<style>@import '//evil.example'</style>",
    "<meta http-equiv=refresh content=0;//evil.example>", "${window.owned=1}", "\u2028window.owned=1//", "\u2029",
    "<!ENTITY x SYSTEM 'file:///etc/passwd'>&x;", "<base href=//evil.example>",
)  # fmt: skip
#: What Markdown, and GitHub beyond it, make links, pictures, mentions or a table's cells of.
MARKDOWN = (
    "http://evil.example", "see https://evil.example/x?y=z.", "www.evil.example", "owner@evil.example",
    "ftp://evil.example", "mailto:a@evil.example", "[x](http://evil.example)", "[x][y]", "[x]: http://evil.example",
    "<http://evil.example>", "![x](http://evil.example/x.png)", "@everyone", "@org/team", "#1", "org/repo#1", "GH-1",
    ":rocket:", "`", "``", "` x", "a`b``c", "a|b", "a\\|b", "| x | y |", "\\", "x\\", "$x$", "$`x`$", "**x**",
    "~~x~~", "# x", "\n\n# x", "- [x] x", "    x", "```\nx\n```", "<details>", "[^1]", "&copy;", "![](x)\n\n---",
    "0123456789abcdef0123456789abcdef01234567",
)  # fmt: skip
#: What makes a text look like another one: direction, invisible characters, hidden copies of ASCII.
INVISIBLE = (
    "\u202efdp.exe", "\u2066x\u2069", "\u200bx", "x\u200d", "\u2060", "\ufeff", "\xad", "\u061c",
    "\U000e0041\U000e0042", "\u180e", "\u3164", "\u115f", "\ufe0f", "\U000e0100", "x\ud800", "\ufffe", "\x00", "\x7f",
    "\x9b", "\x08\x08\x08OK", "\x1b[8mhidden\x1b[0m",
)  # fmt: skip
ALL = (*TERMINAL, *CI_LOG, *MARKUP, *MARKDOWN, *INVISIBLE)

#: The commands that GitHub's runner knows (actions/runner, ActionCommandManager.cs and its extensions).
_KNOWN = frozenset({
    "internal-set-repo-path", "set-env", "set-output", "save-state", "add-path", "add-mask", "add-matcher",
    "remove-matcher", "debug", "warning", "error", "notice", "echo", "group", "endgroup", "command", "section",
    "stop-commands",
})  # fmt: skip
#: The markers of other systems: Azure Pipelines, TeamCity; GitLab (Gitlab::Regex.build_trace_section_regex); Buildkite;
#: Travis; Jenkins (ConsoleNote).
_OTHERS = re.compile(
    r"##vso\[|##teamcity\[|section_(?:start|end):\d+:[A-Za-z0-9_.-]+(?:\[.*\])?\r\x1b\[0K|travis_fold:(?:start|end):[\w.-]+\r|\x1b\[8mha:|\x1b_bk;"
)
_FOLDS = ("--- ", "+++ ", "~~~ ", "^^^ +++")


def commands(log: str) -> Iterator[str]:
    """Yields each line of a log that a CI system obeys, as its reader of the log finds it.

    GitHub reads lines as .NET does, to a carriage return or a newline. `::name properties::message` counts after
    blanks; where there is none, `##[name properties]message` anywhere in the line (actions/runner, ActionCommand.cs,
    TryParseV2 and TryParse). Buildkite folds at the begin of a line; the markers of the others stand anywhere.
    """
    for line in re.split(r"\r\n|\r|\n", log):
        if _second(line) in _KNOWN or _first(line) in _KNOWN or line.startswith(_FOLDS):
            yield line
    yield from (match.group() for match in _OTHERS.finditer(log))


def _second(line: str) -> str:
    text = line.lstrip()
    end = text.find("::", 2)
    return text[2:end].partition(" ")[0].lower() if text.startswith("::") and end >= 0 else ""


def _first(line: str) -> str:
    start = line.find("##[")
    end = line.find("]", start + 3)
    return line[start + 3 : end].partition(" ")[0].lower() if start >= 0 and end >= 0 else ""
