"""The cache of snapshots: each is made once, appears whole or not at all, and is removed when nobody uses it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.errors import BootFailed, HostError
from lifsea_testbed.machine import snapshot as snapshots
from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.snapshot_cache import SnapshotCache
from lifsea_testbed.support.private_dir import allocated
from tests.support.snapshots import FACTS, KEY, make


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[SnapshotCache]:
    with SnapshotCache(tmp_path / "templates") as cache:
        yield cache


def test_a_saved_snapshot_is_loaded(cache: SnapshotCache) -> None:
    assert cache.get(KEY, make).facts == FACTS


def test_a_snapshot_is_made_once(cache: SnapshotCache, tmp_path: Path) -> None:
    made = cache.get(KEY, make)
    assert cache.get(KEY, lambda _: pytest.fail("made again")).directory == made.directory
    assert cache.get({**KEY, "image": "2"}, make).directory != made.directory


def test_a_snapshot_whose_making_fails_is_not_there(cache: SnapshotCache, tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        make(directory)
        raise BootFailed("no shell")

    with pytest.raises(BootFailed):
        cache.get(KEY, fail)
    assert [path for path in (tmp_path / "templates").iterdir() if path.is_dir()] == []


def _make_and_die(path: Path) -> None:
    def die(directory: Path) -> None:
        make(directory)
        os._exit(9)

    SnapshotCache(path).get(KEY, die)


def test_a_process_that_dies_leaves_no_half_snapshot(cache: SnapshotCache, tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_make_and_die, args=(tmp_path / "templates",))
    child.start()
    child.join(30)
    assert child.exitcode == 9
    cache.get(KEY, make)
    assert [path.suffix for path in (tmp_path / "templates").iterdir() if path.is_dir()] == [""]


def _make_slowly(path: Path, made: Path) -> None:
    def slowly(directory: Path) -> None:
        with made.open("a") as file:
            file.write("made\n")
        make(directory, size=1024)

    with SnapshotCache(path) as cache:
        cache.get(KEY, slowly)


def test_of_many_processes_one_makes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    paths = (tmp_path / "templates", tmp_path / "made")
    children = [context.Process(target=_make_slowly, args=paths) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 6
    assert (tmp_path / "made").read_text() == "made\n"


@pytest.mark.parametrize("damage", ["{", "{}", FACTS.model_copy(update={"format": 0}).model_dump_json()])
def test_a_snapshot_that_cannot_be_read_is_made_again(cache: SnapshotCache, damage: str) -> None:
    (cache.get(KEY, make).directory / snapshots.FACTS).write_text(damage)
    assert cache.get(KEY, make).facts == FACTS


def test_the_cache_keeps_to_its_limit_and_removes_the_least_recently_used(tmp_path: Path) -> None:
    path = tmp_path / "templates"
    keys = [{**KEY, "image": str(number)} for number in range(4)]
    kept: list[Path] = []
    for number, key in enumerate(keys):
        with SnapshotCache(path, limit=250 * 1024) as cache:
            kept.append(cache.get(key, lambda directory, key=key: make(directory, key=key, size=100)).directory)  # type: ignore[misc]
            os.utime(kept[-1], (number, number))
            if number == 1:
                os.utime(kept[0], (10, 10))
    assert [directory.exists() for directory in kept] == [True, False, False, True]
    assert allocated(path) <= 250 * 1024


def test_a_snapshot_in_use_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "templates"
    with SnapshotCache(path) as used:
        first = used.get(KEY, make)
        with SnapshotCache(path, limit=1) as other:
            second = other.get({**KEY, "image": "2"}, make)
        assert first.directory.exists() and second.directory.exists()
    with SnapshotCache(path, limit=1) as other:
        other.get({**KEY, "image": "3"}, make)
    assert not first.directory.exists() and not second.directory.exists()


def test_a_snapshot_cannot_be_taken_into_use_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, taken = tmp_path / "templates", list[bool]()
    with SnapshotCache(path) as cache:
        first = cache.get(KEY, make).directory
    remove = snapshot_cache._remove

    def remove_while_another_tries(directory: Path) -> None:
        if directory == first:
            with (directory / snapshots.FACTS).open("rb") as facts, contextlib.suppress(BlockingIOError):
                fcntl.flock(facts, fcntl.LOCK_SH | fcntl.LOCK_NB)
                taken.append(True)
            taken.append(False)
        remove(directory)

    monkeypatch.setattr(snapshot_cache, "_remove", remove_while_another_tries)
    with SnapshotCache(path, limit=1) as cache:
        cache.get({**KEY, "image": "2"}, make)
    assert taken == [False] and not first.exists()


def test_a_snapshot_that_vanishes_while_it_is_loaded_is_made_again(
    cache: SnapshotCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, load = cache.get(KEY, make).directory, snapshots.load

    def load_and_vanish(directory: Path) -> snapshots.Snapshot:
        if directory.suffix == "":
            shutil.rmtree(first)
        return load(directory)

    monkeypatch.setattr(snapshot_cache, "load", load_and_vanish)
    assert cache.get(KEY, make).facts == FACTS and first.exists()


def test_a_snapshot_that_vanishes_while_others_are_counted_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "templates/gone").mkdir(parents=True)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.parent.name == "gone" or exists(path))
    (tmp_path / "templates/gone").rmdir()
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([path / "gone"]))
    with SnapshotCache(tmp_path / "templates", limit=1) as cache:
        assert cache.get(KEY, make).facts == FACTS


def test_a_disk_that_is_full_is_the_hosts_fault(cache: SnapshotCache) -> None:
    def fail(directory: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(HostError, match="cannot be used for snapshots: No space left on device"):
        cache.get(KEY, fail)


_ROUNDS = 60


def _use_again_and_again(path: Path, seed: int) -> None:
    """Uses one of three snapshots after the other in a cache that has room for one."""
    dice = random.Random(seed)
    for _ in range(_ROUNDS):
        key = {**KEY, "image": str(dice.randrange(3))}
        with SnapshotCache(path, limit=80 * 1024) as cache:
            snapshot = cache.get(key, lambda directory, key=key: make(directory, key=key, size=64))  # type: ignore[misc]
            for _ in range(3):
                assert snapshots.load(snapshot.directory).facts.key == key
                assert len((snapshot.directory / snapshots.MEMORY).read_bytes()) == 64 * 1024


def test_many_processes_share_a_cache_that_is_too_small_for_them(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_use_again_and_again, args=(tmp_path / "templates", seed)) for seed in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 6
    with SnapshotCache(tmp_path / "templates", limit=80 * 1024) as cache:
        cache.get({**KEY, "image": "9"}, lambda directory: make(directory, size=64))
    assert [path.suffix for path in (tmp_path / "templates").iterdir() if path.is_dir()] == [""]


#: The table of proc_locks(5); the second line is a process that waits for the first one's lock.
_LOCKS = """\
1: FLOCK  ADVISORY  WRITE 1234 00:1b:5678 0 EOF
1: -> FLOCK  ADVISORY  WRITE 99 00:1b:5678 0 EOF
2: POSIX  ADVISORY  READ  77 08:01:5679 128 128
3: FLOCK  ADVISORY  WRITE 0 08:01:5680 0 EOF
4: FLOCK  ADVISORY  WRITE -1 08:01:5681 0 EOF
5: LEASE  ACTIVE    READ
"""


@pytest.mark.parametrize(("inode", "pid"), [(5678, 1234), (5679, None), (5680, None), (5681, None), (678, None)])
def test_the_holder_of_a_lock_is_read_from_the_table_of_the_kernel(inode: int, pid: int | None) -> None:
    assert snapshot_cache.lock_holder(_LOCKS, inode) == pid


@pytest.mark.parametrize("locks", ["/proc/locks", "/dev/null", "/nowhere"])
def test_a_process_that_does_not_finish_is_named_by_its_pid(
    cache: SnapshotCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    monkeypatch.setattr(snapshot_cache, "_MAKING", 0.0)
    monkeypatch.setattr(snapshot_cache, "_LOCKS", Path(locks))
    waiting = SnapshotCache(tmp_path / "templates")

    def make_while_another_waits(directory: Path) -> None:
        with pytest.raises(HostError) as caught:
            waiting.get(KEY, make)
        name, hint = (f"process {os.getpid()}",) * 2 if locks == "/proc/locks" else ("another process", "that process")
        assert caught.value.happened == f"{name} did not finish making the snapshot within 0 s"
        assert caught.value.hint == f"stop {hint}, or use --cold"
        make(directory)

    cache.get(KEY, make_while_another_waits)
