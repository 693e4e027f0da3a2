"""Nothing is left: pytest, a worker of xdist or QEMU is killed at a random moment, and the next run is green."""

from __future__ import annotations

import contextlib
import enum
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from lifsea_testbed.support.deadline import Deadline
from tests.support import ROOT, real
from tests.support.quick import lay_out

SUITE = """
from lifsea_testbed import claim

@claim("boots-to-ready")
def test_one(machine):
    machine.wait_until_ready()

@claim("no-sshd")
def test_two(own_machine):
    pass

@claim("no-python")
def test_three(own_machine):
    pass

@claim("shell-kept")
def test_four(own_machine):
    pass
"""
REAL = """
extends = "reference"
name = "real"
claims = ["boots-to-ready", "no-sshd"]
"""
MARK = "LIFSEA_TESTBED_ROUND"
GREEN, BROKEN = 0, 6
#: The exit status of a run whose first call of QEMU, before anything boots, fails.
REFUSED = 4
#: The time within which a process that the kernel kills with its parent is gone on a busy host (seconds).
DYING = 20.0
#: The number of attempts at a kill that comes after its run is over.
TRIES = 5


class Victim(enum.Enum):
    """The process that is killed."""

    PYTEST = "pytest"
    WORKER = "a worker"
    QEMU = "QEMU"


@dataclass
class Place:
    """A directory in which runs are killed: the options of a run, and how long a whole one takes (seconds)."""

    path: Path
    options: list[str]
    whole: float = 0.0
    processes: str = ""
    left: list[int] = field(default_factory=list)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Starts a run; its processes have a mark of their own in the environment."""
        self.processes = uuid.uuid4().hex
        environment = {**os.environ, "TMPDIR": str(self.path / "tmp"), MARK: self.processes,
                       "PYTHONPATH": str(ROOT)}  # fmt: skip
        # Runs of several workers make pytest's own directories of the last runs; those are not judged here.
        command = [sys.executable, "-m", "pytest", "-q", "--basetemp", str(self.path / "kept-by-pytest"),
                   *self.options, *options]  # fmt: skip
        with (self.path / "output").open("wb") as output:
            return subprocess.Popen(command, cwd=self.path, env=environment, stdout=output, stderr=output,
                                    stdin=subprocess.DEVNULL)

    def alive(self) -> list[psutil.Process]:
        """The processes of the last run that still exist, without zombies."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.processes and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def files(self) -> list[Path]:
        """The contents of the directory for temporary files, sockets included."""
        return sorted((self.path / "tmp").rglob("*"))

    def output(self) -> str:
        """The end of the run's output."""
        return (self.path / "output").read_text("utf-8", "replace")[-3000:]

    def assert_green(self, *options: str) -> None:
        """Asserts that a whole run passes and leaves nothing."""
        started = time.monotonic()
        assert self.start(*options).wait() == GREEN, self.output()
        self.whole = time.monotonic() - started
        assert self.files() == []
        self.assert_no_process()

    def assert_no_process(self) -> None:
        """Asserts that every process of the last run is gone, or ends when it is scheduled."""
        deadline = Deadline.after(DYING)
        while (alive := self.alive()) and not deadline.expired:
            time.sleep(0.02)
        assert alive == []


def kill_one(place: Place, victim: Victim, moment: float) -> bool:
    """Starts a run and kills one of its processes so many seconds later; returns whether the run was killed in time."""
    run = place.start(*([] if victim is Victim.QEMU else ["-n", "2"]))
    time.sleep(moment)
    while run.poll() is None:
        if found := candidates(run, victim):
            with contextlib.suppress(psutil.NoSuchProcess):
                random.choice(found).send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    status = run.wait()
    place.assert_no_process()
    if victim is Victim.PYTEST:
        assert status in (-signal.SIGKILL, GREEN), place.output()
        place.left.append(len(list((place.path / "tmp").iterdir())))
    else:
        assert status in (BROKEN, GREEN, *([REFUSED] if victim is Victim.QEMU else [])), place.output()
        assert place.files() == []
    return status != GREEN


def candidates(run: subprocess.Popen[bytes], victim: Victim) -> list[psutil.Process]:
    """The processes of the run of which one is killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        main = psutil.Process(run.pid)
        if victim is Victim.PYTEST:
            return [main]
        below = main.children(recursive=victim is Victim.QEMU)
        name = "qemu-system" if victim is Victim.QEMU else "python"
        # A child that the main process has just forked to run a program is no worker, but has its command line still.
        return [process for process in below if process.name().startswith(name) and process.cmdline() != main.cmdline()]
    return []


def kill_again_and_again(place: Place, victims: list[Victim], seed: int) -> Counter[Victim]:
    """Kills one after the other, with a green run after each; a kill that came too late is tried again, earlier."""
    chance, hit, late = random.Random(seed), Counter[Victim](), 0
    place.assert_green()
    for victim in victims:
        for attempt in range(TRIES):
            hit[victim] += (in_time := kill_one(place, victim, chance.uniform(0.0, place.whole / (attempt + 1))))
            late += not in_time
            place.assert_green()
            if in_time:
                break
    print(f"{hit.total()} kills: {dict(hit)}, and {late} that came too late; directories that a killed pytest left to "
          f"the next run: {sum(place.left)}; then 0 processes, sockets and files, and each next run was green")
    return hit


@pytest.fixture
def quick(tmp_path: Path) -> Place:
    """Runs on a guest that is up within a second."""
    return Place(tmp_path, lay_out(tmp_path, SUITE))


@pytest.mark.boots
def test_a_killed_run_leaves_nothing_to_the_next(quick: Place) -> None:
    kill_again_and_again(quick, [Victim.PYTEST], seed=1)


@pytest.mark.nightly
@pytest.mark.boots
def test_a_hundred_kills_leave_nothing(quick: Place) -> None:
    victims = [Victim.PYTEST, Victim.WORKER, Victim.QEMU] * 33 + [Victim.PYTEST]
    hit = kill_again_and_again(quick, victims, seed=2)
    assert hit == Counter(victims)


@pytest.mark.nightly
@pytest.mark.boots
def test_kills_of_runs_on_a_real_guest_leave_nothing(tmp_path: Path) -> None:
    options = lay_out(tmp_path, SUITE.partition('@claim("no-python")')[0])
    options[options.index("disk.raw")] = str(real.built("reference"))
    (tmp_path / "quick.toml").write_text(REAL)
    kill_again_and_again(Place(tmp_path, options), list(Victim), seed=3)
