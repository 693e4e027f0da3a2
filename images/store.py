"""Caches build results under the user's cache directory, by the hash of their recipe."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock

from images import fetched, progress
from images.fetched import Fetched

#: A part of a recipe: a text, or a file or directory with its content.
Ingredient = str | Path
#: The prefix of scratch directories; the id of the owning process follows.
_SCRATCH = "scratch-of-"
#: Hexadecimal digits of a recipe's hash, and the number of last used results that are kept for each name.
_DIGITS = 16
_KEPT = 3
_SECTOR = 512


def fingerprint(ingredients: Iterable[Ingredient]) -> str:
    """Returns the hash of a recipe: hexadecimal digits over names, modes, links and contents."""
    digest = hashlib.sha256()
    for ingredient in ingredients:
        for part in _parts(ingredient):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:_DIGITS]


class Store:
    """A directory of artefacts; each is built once, by one process at a time, and appears whole or not at all."""

    def __init__(self, directory: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._directory = directory or cache / "lifsea-testbed" / "images"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def artefact(self, name: str, ingredients: Iterable[Ingredient], make: Callable[[Path], None]) -> Path:
        """Returns the directory of an artefact, built by `make(directory)` if the cache does not have this recipe."""
        final = self._directory / f"{name}-{fingerprint(ingredients)}"
        with FileLock(self._directory / f"{name}.lock"):
            if not final.is_dir():
                self._make(name, final, make)
            os.utime(final)
        return final

    def _make(self, name: str, final: Path, make: Callable[[Path], None]) -> None:
        with self.scratch() as scratch, progress.step(name):
            made = scratch / "made"
            made.mkdir()
            with fetched.collected() as packages:
                make(made)
            fetched.write(_record(final), packages)
            made.rename(final)
        digits = "[0-9a-f]" * _DIGITS
        by_use = sorted(self._directory.glob(f"{name}-{digits}"), key=lambda path: path.stat().st_mtime)
        for outdated in by_use[:-_KEPT]:
            _record(outdated).unlink(missing_ok=True)
            _remove(outdated)

    def packages_of(self, name: str, file: str, content: bytes) -> list[Fetched]:
        """Returns the packages that a program is made of, by its content: the artefact of that name with that file.

        GRUB on a disk differs from the file in its first sector, which has the places of the others.
        """
        for directory in self._directory.glob(f"{name}-{'[0-9a-f]' * _DIGITS}"):
            made = (directory / file).read_bytes() if (directory / file).is_file() else b""
            if made and content[_SECTOR:len(made)] == made[_SECTOR:]:
                return fetched.read(_record(directory))
        return []

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yields a directory on the same file system, and removes it afterwards with its content."""
        directory = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=self._directory))
        try:
            yield directory
        finally:
            _remove(directory)

    def _sweep(self) -> None:
        """Removes the scratch directories of builds that were killed."""
        for directory in self._directory.glob(f"{_SCRATCH}*-*"):
            if not psutil.pid_exists(int(directory.name.removeprefix(_SCRATCH).partition("-")[0])):
                _remove(directory)


def _record(artefact: Path) -> Path:
    """The list of the packages in an artefact, beside it: what is in it goes into images."""
    return artefact.with_name(f"{artefact.name}.packages")


def _remove(directory: Path) -> None:
    # ostree makes the root of a deployment immutable.
    subprocess.run(["chattr", "-f", "-R", "-i", str(directory)], check=False, capture_output=True)
    shutil.rmtree(directory)


def _parts(ingredient: Ingredient) -> Iterator[bytes]:
    if isinstance(ingredient, str):
        yield ingredient.encode()
        return
    paths = sorted(ingredient.rglob("*")) if ingredient.is_dir() else [ingredient]
    for path in paths:
        yield str(path.relative_to(ingredient)).encode()
        if path.is_symlink():
            yield str(path.readlink()).encode()
        elif path.is_file():
            yield b"x" if path.stat().st_mode & 0o100 else b"-"
            yield path.read_bytes()
