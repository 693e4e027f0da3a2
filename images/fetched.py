"""Which Debian packages went into an artefact, with version and digest: written down beside it in the cache."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_open: list[list[Fetched]] = []


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A Debian package, or the source of one: `architecture` is `source` then; the digest is of its .deb or .dsc."""

    name: str
    version: str
    architecture: str
    sha256: str


def note(name: str, version: str, architecture: str, file: Path) -> None:
    """Adds a package to what is being collected, if anything is."""
    package = Fetched(name=name, version=version, architecture=architecture,
                      sha256=hashlib.sha256(file.read_bytes()).hexdigest())  # fmt: skip
    for packages in _open:
        packages.append(package)


@contextlib.contextmanager
def collected() -> Iterator[list[Fetched]]:
    """Yields the list of packages that are noted within the context."""
    _open.append([])
    try:
        yield _open[-1]
    finally:
        _open.pop()


def write(path: Path, packages: Iterable[Fetched]) -> None:
    """Writes a line for each package."""
    rows = sorted({(each.name, each.version, each.architecture, each.sha256) for each in packages})
    path.write_text("".join(f"{' '.join(row)}\n" for row in rows), "utf-8")


def read(path: Path) -> list[Fetched]:
    """Reads the packages; none if the artefact is older than this record."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    rows = (line.split() for line in lines)
    return [Fetched(name=name, version=version, architecture=architecture, sha256=sha256)
            for name, version, architecture, sha256 in rows]  # fmt: skip
