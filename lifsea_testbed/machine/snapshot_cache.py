"""The cache of templates: each is made once, by one process at a time, and appears whole or not at all.

The cache is bounded in size; what was not used for longest goes first, and never what a running process uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from lifsea_testbed.errors import HostError, TestbedError
from lifsea_testbed.machine.snapshot import FACTS, Template, load
from lifsea_testbed.support.private_dir import allocated

#: What all templates together may take on disk (bytes): about twenty of them.
LIMIT = 10 << 30
#: How long a template that another process makes is waited for (seconds): a first boot under emulation, and the queue.
_MAKING = 1800.0
_DIGITS = 16
_PART, _GONE, _LOCK = ".part", ".gone", ".lock"


def directory() -> Path:
    """Returns where the user's templates lie."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lifsea-testbed" / "templates"


class TemplateCache:
    """The templates in one directory; leave the context when none of them is needed any more."""

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._used = contextlib.ExitStack()

    def __enter__(self) -> TemplateCache:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets others remove what was used here."""
        self._used.close()

    def get(self, key: Mapping[str, str], make: Callable[[Path], object],
            on_wait: Callable[[], object] = lambda: None) -> Template:
        """Returns the template of that key, made by `make(directory)` if there is none; `on_wait` if another makes it.

        Raises:
            HostError: the cache cannot be written, or another process does not come to an end with it.
            Explained: what `make` raised.
        """
        with self._locked(key, on_wait):
            final = self._place(key)
            with contextlib.suppress(TestbedError):
                return self._use(final)
            self._make(final, make)
            template = self._use(final)
        self._evict()
        return template

    def discard(self, template: Template) -> None:
        """Removes a template that is of no use; others that use it keep what they have open."""
        with self._locked(template.facts.key):
            _remove(template.directory)

    def _place(self, key: Mapping[str, str]) -> Path:
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
        return self._path / digest[:_DIGITS]

    @contextlib.contextmanager
    def _locked(self, key: Mapping[str, str], on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._place(key).with_suffix(_LOCK))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                on_wait()
                lock.acquire(timeout=_MAKING)
        except Timeout:
            raise HostError(f"another process has not made its template within {_MAKING:.0f} s",
                            hint="stop it, or use --cold") from None
        except OSError as error:
            raise HostError(f"{self._path} cannot be used for templates: {error.strerror}",
                            hint="set XDG_CACHE_HOME, or use --cold") from None
        try:
            yield
        finally:
            lock.release()

    def _use(self, final: Path) -> Template:
        """Loads a template and keeps it from being removed for as long as this cache is in use."""
        template = load(final)
        file = self._used.enter_context((final / FACTS).open("rb"))
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(final)
        return template

    def _make(self, final: Path, make: Callable[[Path], object]) -> None:
        """Makes it beside its place and puts it there in one step; what a crash left there before is removed."""
        part = final.with_suffix(_PART)
        _remove(part)
        _remove(final)
        part.mkdir(mode=0o700)
        try:
            make(part)
            part.rename(final)
        finally:
            _remove(part)

    def _evict(self) -> None:
        """Removes what crashes left, and then the templates that were not used for longest, until the rest fits."""
        for part in self._path.glob(f"*{_PART}"):
            with contextlib.suppress(Timeout), FileLock(part.with_suffix(_LOCK)).acquire(timeout=0):
                _remove(part)
        for gone in self._path.glob(f"*{_GONE}"):
            shutil.rmtree(gone, ignore_errors=True)
        templates = sorted((path.stat().st_mtime, path) for path in self._path.iterdir() if (path / FACTS).exists())
        size = sum(allocated(path) for _, path in templates)
        for _, path in templates:
            if size <= self._limit:
                return
            before = allocated(path)
            if _is_unused(path):
                _remove(path)
                size -= before


def _is_unused(path: Path) -> bool:
    with contextlib.suppress(OSError), (path / FACTS).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _remove(path: Path) -> None:
    """Removes a directory by another name first: nobody ever sees a half of it."""
    if not path.exists():
        return
    doomed = path.with_name(f"{path.name}-{uuid.uuid4().hex}{_GONE}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
