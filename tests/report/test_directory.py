"""The directory of the reports: what a run replaces stays until its own reports are whole, at whatever step it ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lifsea_testbed.errors import CallerError
from lifsea_testbed.report.directory import ReportsDirectory

EARLIER = {"gate.json": "old", "junit.xml": "old", "gate.json.minisig": "old", "metrics.jsonl": "old",
           "mine.txt": "mine", "evidence/a/about.txt": "old"}  # fmt: skip
NEW = {"gate.json": "new", "junit.xml": "new", "evidence/b/about.txt": "new", "verdict.txt": "new"}
#: With the new reports in place: the files of a user, and of a plugin, stay if no new one has their name.
REPLACED = {**NEW, "mine.txt": "mine"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of what follows is run."""


def fill(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def content(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    fill(tmp_path, EARLIER)
    return tmp_path


@pytest.fixture
def failing_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Makes the n-th rename from now on, counted from 0, raise that exception."""

    def arm(number: int, error: BaseException) -> None:
        calls, rename = iter(range(number + 1)), Path.rename

        def counted(path: Path, target: Path) -> Path:
            if next(calls, None) == number:
                raise error
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", counted)

    return arm


def test_reports_are_replaced_as_a_whole(reports: Path) -> None:
    run = ReportsDirectory(reports)
    fill(run.work, NEW)
    assert {name: text for name, text in content(reports).items() if not name.startswith(".run-")} == EARLIER
    run.publish()
    run.close()
    assert content(reports) == REPLACED


def test_without_earlier_reports_a_run_writes_in_place(tmp_path: Path) -> None:
    run = ReportsDirectory(tmp_path)
    assert run.work == tmp_path
    fill(run.work, NEW)
    run.publish()
    run.close()
    assert content(tmp_path) == NEW


@pytest.mark.parametrize("step", range(10))
def test_what_cannot_be_moved_is_undone(
    reports: Path, failing_at: Callable[[int, BaseException], None], step: int
) -> None:
    run = ReportsDirectory(reports)
    fill(run.work, NEW)
    failing_at(step, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        run.publish()
    run.close()
    assert {name: text for name, text in content(reports).items() if not name.startswith(".")} == EARLIER


@pytest.mark.parametrize("step", range(11))
def test_a_run_that_is_killed_leaves_no_mix(
    reports: Path, failing_at: Callable[[int, BaseException], None], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """With a verdict all reports are of one run; without one the next run finishes the replacement, or undoes it."""
    run = ReportsDirectory(reports)
    fill(run.work, NEW)
    with monkeypatch.context() as context:
        context.setattr(shutil, "rmtree", lambda *_, **__: None)
        failing_at(step, Killed())
        try:
            run.publish()
        except Killed:
            assert not (reports / "gate.json").exists() or step == 0
    monkeypatch.undo()
    os.close(run._lock)
    after = ReportsDirectory(reports)
    after.close()
    assert content(reports) == (EARLIER if step <= 5 else REPLACED)


def test_without_a_verdict_nothing_is_replaced(reports: Path) -> None:
    run = ReportsDirectory(reports)
    fill(run.work, {name: text for name, text in NEW.items() if name != "gate.json"})
    with pytest.raises(FileNotFoundError):
        run.publish()
    run.close()
    assert content(reports) == EARLIER


def test_one_run_at_a_time(reports: Path) -> None:
    run = ReportsDirectory(reports)
    with pytest.raises(CallerError, match="another run writes its reports there"):
        ReportsDirectory(reports)
    run.close()
    ReportsDirectory(reports).close()


def test_room_is_made_by_the_least_important_first(reports: Path) -> None:
    run = ReportsDirectory(reports)
    fill(run.work, {**NEW, "allure/x": "", "machines/m/transcript-1.txt": ""})
    left = []
    while run.make_room():
        left.append(sorted(path.name for path in run.work.iterdir() if path.is_dir()))
    assert left == [["evidence", "machines"], ["evidence"], []]
    run.close()
