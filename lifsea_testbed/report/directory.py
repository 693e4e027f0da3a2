"""The directory of the reports: one run at a time writes there, and what it replaces stays until its own are whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from lifsea_testbed.errors import CallerError

GATE = "gate.json"
#: The verdict of a run, and what is made of it.
VERDICT = (GATE, "gate.json.minisig", "junit.xml", "summary.md")
#: Everything that a run writes and that the next run replaces.
OF_A_RUN = (*VERDICT, "run.json", "metrics.jsonl", "claims.html", "allurerc.json", "evidence", "machines", "allure")
#: The parts that take room and that a verdict can do without, the least important first.
_BULK = ("allure", "machines", "evidence")
#: The directories of a run that is not published yet, and of the reports that are being replaced.
_WORK, _EARLIER = ".run-", ".earlier-"


class ReportsDirectory:
    """The reports in `path`; a run writes its own in `work`, and `publish` puts them in the place of the earlier ones.

    Where there are no earlier ones, `work` is `path` itself. A directory with a gate.json has the reports of one run,
    whatever ended which run when: gate.json is the first to go and the last to come.
    """

    def __init__(self, path: Path, names: Iterable[str] = OF_A_RUN) -> None:
        """Locks the directory, and finishes or undoes what a run that was killed has left.

        Raises:
            CallerError: another run writes there.
            OSError: the directory cannot be written.
        """
        self.path = path
        self._names = tuple(names)
        self._lock = _locked(path)
        try:
            self._recover()
            self.work = self._new(_WORK) if any(map(self._exists, self._names)) else path
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def is_published(self) -> bool:
        """Whether the reports of this run are in their place."""
        return self.work == self.path

    def publish(self) -> None:
        """Puts the reports of this run in the place of the earlier ones; after an exception those are still there.

        Raises:
            OSError: there is no verdict any more, or a file cannot be moved.
        """
        (self.work / GATE).stat()
        if self.is_published:
            return
        earlier, moved = self._new(_EARLIER), list[tuple[Path, Path]]()
        new = sorted((path.name for path in self.work.iterdir()), key=lambda name: (name == GATE, name))
        old = sorted(filter(self._exists, {*self._names, *new}), key=lambda name: (name != GATE, name))
        try:
            for source, target in [*((self.path / name, earlier / name) for name in old),
                                   *((self.work / name, self.path / name) for name in new)]:
                source.rename(target)
                moved.append((source, target))
        except OSError:
            for source, target in reversed(moved):
                target.rename(source)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)
        self.work = self.path

    def make_room(self) -> bool:
        """Removes a part of this run's reports that its verdict can do without; returns whether there was one."""
        part = next((name for name in _BULK if (self.work / name).exists()), None)
        if part:
            shutil.rmtree(self.work / part, ignore_errors=True)
        return part is not None and not (self.work / part).exists()

    def close(self) -> None:
        """Removes what was not published, and lets other runs in."""
        if not self.is_published:
            shutil.rmtree(self.work, ignore_errors=True)
        os.close(self._lock)

    def _recover(self) -> None:
        for earlier in self.path.glob(f"{_EARLIER}*"):
            if not self._exists(GATE):
                old = sorted((path.name for path in earlier.iterdir()), key=lambda name: (name == GATE, name))
                for name in (*self._names, *old):
                    _remove(self.path / name)
                for name in old:
                    (earlier / name).rename(self.path / name)
            _remove(earlier)
        for work in self.path.glob(f"{_WORK}*"):
            _remove(work)

    def _exists(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

    def _new(self, prefix: str) -> Path:
        made = self.path / f"{prefix}{uuid.uuid4().hex[:8]}"
        made.mkdir()
        return made


def _locked(directory: Path) -> int:
    """The descriptor that keeps other runs out; a file system without locks (flock(2)) keeps nobody out."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CallerError(f"--reports {directory}: another run writes its reports there",
                          hint="choose another directory, or wait for that run") from None  # fmt: skip
    except OSError:
        pass
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
