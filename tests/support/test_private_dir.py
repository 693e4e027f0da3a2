"""Leftovers of killed processes are found by their locks and removed; directories in use are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from lifsea_testbed.cli import main
from lifsea_testbed.support import private_dir
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.private_dir import PrivateDirectory

OWNER = """
import time
from lifsea_testbed.support.private_dir import PrivateDirectory
print(PrivateDirectory().path, flush=True)
time.sleep(60)
"""
CHILD = """
import sys, time
from lifsea_testbed.support.private_dir import die_with_parent
die_with_parent(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files of this process and its children."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def dead() -> Path:
    """A directory whose owner was killed."""
    owner = started(OWNER)
    path = Path(first_line_of(owner))
    (path / "overlay.qcow2").write_bytes(b"x" * (3 << 20))
    kill(owner)
    return path


@pytest.fixture
def alive() -> Iterator[Path]:
    """A directory whose owner lives."""
    owner = started(OWNER)
    yield Path(first_line_of(owner))
    kill(owner)


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def first_line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_dead_runs_directory_is_found_and_a_living_ones_is_not(dead: Path, alive: Path) -> None:
    (found,) = private_dir.find()
    assert (found.path, found.size, found.processes) == (dead, 3 << 20, ())
    assert private_dir.clean() == [found]
    assert not dead.exists() and alive.is_dir()


def test_a_process_that_still_works_in_it_is_ended(dead: Path) -> None:
    straggler = subprocess.Popen(["sleep", "60"], cwd=dead)
    (found,) = private_dir.clean()
    assert found.processes == (straggler.pid,)
    assert not psutil.pid_exists(straggler.pid)
    straggler.wait()
    assert not dead.exists()


def test_a_directory_in_use_again_is_left_alone(dead: Path, temporary: Path) -> None:
    (found,) = private_dir.find()
    with PrivateDirectory() as own:
        private_dir.remove(private_dir.Leftover(path=own.path, size=0, processes=()))
        assert own.path.is_dir()
    private_dir.remove(found)
    private_dir.remove(found)
    assert list(temporary.iterdir()) == []


def test_links_and_files_are_not_followed(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (temporary / "lifsea-run-link").symlink_to(elsewhere)
    (temporary / "lifsea-run-file").touch()
    assert private_dir.clean() == []
    assert elsewhere.is_dir()


def test_owners_and_janitors_do_not_meet() -> None:
    """While one thread creates directories, another removes leftovers: no owner loses its directory."""
    def owns(_: int) -> bool:
        with PrivateDirectory() as own:
            return (own.path / "file").write_text("mine") == 4 and own.path.is_dir()

    with ThreadPoolExecutor(4) as threads:
        owners = threads.map(owns, range(300))
        janitors = [threads.submit(private_dir.clean) for _ in range(100)]
        assert all(owners)
        assert all(janitor.result() is not None for janitor in janitors)


def test_a_worker_dies_with_the_process_that_started_it() -> None:
    parent = started(PARENT, CHILD)
    child = psutil.Process(int(first_line_of(parent)))
    kill(parent)
    deadline = Deadline.after(10.0)
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and not deadline.expired:
        time.sleep(0.01)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_process_of_another_parent_stays() -> None:
    private_dir.die_with_parent(os.getpid())


def test_the_doctor_says_what_is_left_and_cleans_it(dead: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["doctor"]) == 0
    assert f"left by a killed run: {dead} (3 MiB, 0 processes)\n" in capsys.readouterr().out
    assert main.main(["doctor", "--clean"]) == 0
    assert f"removed: {dead} (3 MiB, 0 processes)\n" in capsys.readouterr().out
    assert main.main(["doctor"]) == 0
    assert str(dead) not in capsys.readouterr().out


def test_a_memory_file_system_that_cannot_be_written_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode of the directory and the space in it do not show that: root may write where the mode forbids it."""
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(private_dir, "IN_MEMORY", tmp_path)
    assert private_dir.places()[1:] == [tmp_path]
    monkeypatch.setattr(private_dir, "IN_MEMORY", Path("/proc/self"))
    assert len(private_dir.places()) == 1
