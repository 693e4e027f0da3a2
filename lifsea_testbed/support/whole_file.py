"""Files that are whole or not there: written under a name that nobody else has, then renamed."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[IO[str]]:
    """Opens a text file (UTF-8) that takes the place of that path when the context is left without an exception.

    Until then, and after an exception, the old file stays as it is. Several processes may replace one file.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_whole(path: Path, text: str) -> None:
    """Writes a text file (UTF-8), whole or not at all."""
    with replaced(path) as file:
        file.write(text)
