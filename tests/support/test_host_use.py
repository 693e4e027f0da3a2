"""Shared and exclusive use of a host, by several processes: never both, never stuck, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lifsea_testbed.errors import HostError, NotJudged, Reason
from lifsea_testbed.support import host_use
from lifsea_testbed.support.host_use import HostUse
from tests.support import ROOT

#: Each process works alternately: it writes when it begins and when it ends, in shared or in exclusive use.
_WORKER = """
import sys, time
from pathlib import Path
from lifsea_testbed.support.host_use import HostUse

name, directory, log = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[2]) / "log"
host = HostUse(applies=True, directory=directory)

def note(word):
    with log.open("a") as file:
        file.write(f"{word}\\n")

for turn in range(8):
    host.share()
    note(f"+{name}")
    time.sleep(0.01)
    note(f"-{name}")
    if (turn + int(name)) % 3 == 0:
        with host.exclusive("a boot"):
            note(f"+{name}!")
            time.sleep(0.02)
            note(f"-{name}!")
    host.leave()
"""
_HOLDER = """
import sys
from pathlib import Path
from lifsea_testbed.support.host_use import HostUse

host = HostUse(applies=True, directory=Path(sys.argv[1]))
with host.exclusive("a boot"):
    print("has it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[HostUse, HostUse, list[str]]]:
    """Two processes' use of one host, and the lines that the second announces."""
    announced: list[str] = []
    with closing(HostUse(applies=True, directory=tmp_path)) as one, \
            closing(HostUse(applies=True, directory=tmp_path, announce=announced.append)) as other:  # fmt: skip
        yield one, other, announced


def test_what_is_timed_never_runs_beside_anything_else(tmp_path: Path) -> None:
    """Four processes, each with tests and timed tests: all come to their end."""
    with ExitStack() as stack:
        workers = [stack.enter_context(subprocess.Popen([sys.executable, "-c", _WORKER, str(number), str(tmp_path)],
                                                        cwd=ROOT)) for number in range(4)]  # fmt: skip
        assert [worker.wait(60) for worker in workers] == [0] * 4
    running: set[str] = set()
    beside = 0
    for line in (tmp_path / "log").read_text().splitlines():
        if line.startswith("-"):
            running.remove(line[1:])
            continue
        running.add(line[1:])
        beside += len(running) > 1
        assert len(running) == 1 or not any(name.endswith("!") for name in running)
    assert beside, "tests of several processes run at once"


def test_tests_share_the_host(two: tuple[HostUse, HostUse, list[str]]) -> None:
    one, other, announced = two
    one.share()
    other.share()
    assert announced == []


def test_who_waits_for_the_host_to_itself_is_not_passed_by(
    two: tuple[HostUse, HostUse, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, other, _ = two
    monkeypatch.setattr(host_use, "_PATIENCE", 0.2)
    one.share()
    passed_by: list[str] = []
    late = HostUse(applies=True, directory=tmp_path)

    def come_in(line: str) -> None:
        try:
            late.share()
        except HostError:
            return
        passed_by.append(line)

    other._announce = come_in
    with closing(late), pytest.raises(NotJudged), other.exclusive("a boot"):
        pass
    assert passed_by == []
    late.share()


def test_waiting_is_announced_once_and_has_an_end(
    two: tuple[HostUse, HostUse, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, announced = two
    monkeypatch.setattr(host_use, "_PATIENCE", 0.2)
    with one.exclusive("a boot"), pytest.raises(HostError, match="kept this host to itself"):
        other.share()
    one.share()
    with pytest.raises(NotJudged, match="did not become free") as caught, other.exclusive("an upgrade"):
        pass
    assert caught.value.reason is Reason.HOST
    assert announced == ["waiting: another process measures times on this host",
                         "waiting for other tests on this host to end, to time an upgrade"]  # fmt: skip


def test_shared_use_is_taken_again_after_exclusive_use(
    two: tuple[HostUse, HostUse, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, _ = two
    monkeypatch.setattr(host_use, "_PATIENCE", 0.1)
    one.share()
    with one.exclusive("a boot"), one.exclusive("a part of it"):
        one.share()
    with pytest.raises(NotJudged), other.exclusive("a boot"):
        pass
    one.leave()
    with other.exclusive("a boot"):
        pass


def test_under_emulation_nobody_waits_and_no_file_is_made(tmp_path: Path) -> None:
    one, other = (HostUse(applies=False, directory=tmp_path) for _ in range(2))
    with one.exclusive("a boot"), other.exclusive("a boot"):
        other.share()
    other.leave()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_keeps_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "has it\n"
        holder.kill()
    with closing(HostUse(applies=True, directory=tmp_path)) as after:
        started = time.monotonic()
        after.share()
        assert time.monotonic() - started < 30


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    host = HostUse(applies=True, directory=tmp_path / "none")
    with pytest.raises(HostError, match=r"gate\.lock cannot be opened"):
        host.share()
