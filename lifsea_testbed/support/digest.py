"""Digests by which both ends of a channel compare what went over it, with whichever tool the guest has."""

from __future__ import annotations

import hashlib
import io
from typing import IO

#: What a guest's shell is asked, of its standard input: a digest in hexadecimal first, or nothing that tells.
TOOLS = "sha256sum 2>/dev/null || md5sum 2>/dev/null || echo none"
_PIECE = 1 << 20
_BY_LENGTH = {64: "sha256", 32: "md5"}


def same(data: bytes | IO[bytes], said: str) -> bool:
    """Tells whether the data have the digest that a guest said; a guest without such a tool has to be believed."""
    digest = (said.split() or [""])[0]
    name = _BY_LENGTH.get(len(digest))
    return name is None or _digest(io.BytesIO(data) if isinstance(data, bytes) else data, name) == digest


def _digest(file: IO[bytes], name: str) -> str:
    computed = hashlib.new(name, usedforsecurity=False)
    while piece := file.read(_PIECE):
        computed.update(piece)
    return computed.hexdigest()
