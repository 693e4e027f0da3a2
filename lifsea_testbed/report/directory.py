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
#: The directories of a run that is not published yet; of earlier reports, while they are moved away; and when all are.
_WORK, _EARLIER, _REPLACED = ".run-", ".earlier-", ".replaced-"


class ReportsDirectory:
    """The reports in `path`; a run writes its own in `work`, and `publish` puts them in the place of the earlier ones.

    Where there are no earlier ones, `work` is `path` itself. A directory with a gate.json has the reports of one run,
    whatever ended which run when: gate.json is the first to go and the last to come.
    """

    def __init__(self, path: Path, names: Iterable[str] = OF_A_RUN, *, option: str = "--reports") -> None:
        """Locks the directory, and finishes or undoes what a run that was killed has left; `option` is for messages.

        Raises:
            CallerError: another run writes there.
            OSError: the directory cannot be written.
        """
        self.path = path
        self._names = tuple(names)
        self._lock = _locked(path, option)
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
        new, earlier, moved = _gate_last(self.work), self._new(_EARLIER), list[tuple[Path, Path]]()
        old = sorted(filter(self._exists, {*self._names, *new}), key=lambda name: (name != GATE, name))
        replaced = self.path / earlier.name.replace(_EARLIER, _REPLACED)
        try:
            for source, target in [*((self.path / name, earlier / name) for name in old), (earlier, replaced),
                                   *((self.work / name, self.path / name) for name in new)]:
                source.rename(target)
                moved.append((source, target))
        except OSError:
            for source, target in reversed(moved):
                target.rename(source)
            _remove(earlier)
            raise
        _remove(replaced)
        _remove(self.work)
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
        """Puts back what a killed run had begun to move away; once all was away, puts that run's own in its place."""
        works = sorted(self.path.glob(f"{_WORK}*"))
        for source in [*self.path.glob(f"{_EARLIER}*"), *(works if any(self.path.glob(f"{_REPLACED}*")) else [])]:
            for name in _gate_last(source):
                (source / name).rename(self.path / name)
        for kind in (_EARLIER, _WORK, _REPLACED):
            for path in self.path.glob(f"{kind}*"):
                _remove(path)

    def _exists(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

    def _new(self, prefix: str) -> Path:
        made = self.path / f"{prefix}{uuid.uuid4().hex[:8]}"
        made.mkdir()
        return made


def _locked(directory: Path, option: str) -> int:
    """The descriptor that keeps other runs out; a file system without locks (flock(2)) keeps nobody out."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CallerError(f"{option} {directory}: another run writes its reports there",
                          hint="choose another directory, or wait for that run") from None  # fmt: skip
    except OSError:
        pass
    return descriptor


def _gate_last(directory: Path) -> list[str]:
    return sorted((path.name for path in directory.iterdir()), key=lambda name: (name == GATE, name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
