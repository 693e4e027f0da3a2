"""A guest's bytes on the user's own terminal: what draws on the screen passes, everything else is dropped."""

from __future__ import annotations

import codecs
import re

from lifsea_testbed.support.sanitize import SEQUENCE

_TOKENS = re.compile(rf"{SEQUENCE}|[\x00-\x06\x0e-\x1f\x7f-\x9f]")
#: Control sequences that move the cursor, erase, insert, delete, scroll and colour (ECMA-48, 8.3; xterm's ctlseqs).
#: Requests that a terminal answers as if keys were typed, and what changes its keyboard, mouse, title or clipboard,
#: are not among them. `T` with more than one parameter starts mouse tracking.
_DRAWING = re.compile(
    r"\x1b(?:\[(?:[0-9;:]*m|[0-9;]*[@A-HJ-MPXadefrsu]|[0-9]*[ST]|\?(?:7|12|25|47|1047|1048|1049)[hl])"
    r"|[78DEM]|[()][0AB])")  # fmt: skip
#: A sequence whose end has not arrived.
_OPEN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\](?!R|P[0-9a-fA-F]{7})[^\x07\x1b\n]*\x1b?|[PX^_][^\x1b\n]*\x1b?|[ -/]*)\Z")
#: The longest sequence that is kept until its end arrives (characters); of a longer one, nothing passes.
_LONGEST = 4096


class TerminalFilter:
    """Filters one stream of bytes; sequences may be split over any number of pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> bytes:
        """Returns what a terminal may have of this piece, and of the end of the one before."""
        text = self._rest + self._decoder.decode(data)
        unfinished = _OPEN.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._rest = _shortened(text[end:])
        return _TOKENS.sub(_passed, text[:end]).encode()


def _passed(token: re.Match[str]) -> str:
    return token.group() if _DRAWING.fullmatch(token.group()) else ""


def _shortened(rest: str) -> str:
    """The open sequence; of one that is too long only the kind, with a mark by which it is not passed when it ends."""
    if len(rest) <= _LONGEST:
        return rest
    return "\x1b[<" if rest[1] == "[" else rest[:2]
