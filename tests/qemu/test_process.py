"""The QEMU process: watched, confined, and gone when its owner is."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lifsea_testbed.errors import EmulatorFailed, HostError, LaunchError
from lifsea_testbed.qemu import process as process_module
from lifsea_testbed.qemu.process import QemuProcess, describe_exit
from lifsea_testbed.support.confinement import confined
from lifsea_testbed.support.deadline import Deadline

OWNER = """
import sys, time
from pathlib import Path
from lifsea_testbed.support.confinement import confined
from lifsea_testbed.qemu.process import QemuProcess
with confined() as confinement:
    process = QemuProcess(["sleep", "60"], directory=Path(sys.argv[1]), inherit=[], confinement=confinement,
                          on_exit=lambda process: None)
    print(process.pid, flush=True)
    time.sleep(60)
"""
Start = Callable[..., QemuProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command in a directory, confined."""
    with confined() as confinement:
        yield lambda *command, ended=None, **options: QemuProcess(
            command, directory=tmp_path, inherit=[], confinement=confinement,
            on_exit=lambda process: ended.set() if ended else None, **options)  # fmt: skip


def runs(pid: int) -> bool:
    """Whether the process executes anything still: one that nobody has waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_its_end_is_noticed_and_explained(start: Start) -> None:
    ended = threading.Event()
    process = start("sh", "-c", "echo no such option >&2; exit 3", ended=ended)
    assert ended.wait(10.0)
    error = process.exit_error()
    assert "exited with status 3" in error.happened
    assert error.evidence == "sh -c 'echo no such option >&2; exit 3'\nno such option\n"


@pytest.mark.parametrize(("signal", "error"), [("ABRT", EmulatorFailed), ("SEGV", EmulatorFailed),
                                               ("KILL", LaunchError), ("TERM", LaunchError)])  # fmt: skip
def test_a_fault_of_its_own_is_distinguished_from_a_kill(start: Start, signal: str, error: type[LaunchError]) -> None:
    ended = threading.Event()
    process = start("sh", "-c", f"ulimit -c 0; kill -{signal} $$", ended=ended)
    assert ended.wait(10.0)
    assert type(process.exit_error()) is error and signal in process.exit_error().happened


def test_it_is_gone_after_a_kill(start: Start) -> None:
    process = start("sleep", "60")
    assert not process.wait(0.1)
    process.kill()
    assert process.exited and not psutil.pid_exists(process.pid)


def test_it_dies_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    deadline = Deadline.after(10.0)
    while runs(child) and not deadline.expired:
        time.sleep(0.01)
    assert not runs(child)


@pytest.mark.parametrize(("status", "words"), [
    (None, "is running"), (-9, "was killed by SIGKILL"), (1, "exited with status 1"),
])  # fmt: skip
def test_an_end_in_words(status: int | None, words: str) -> None:
    assert describe_exit(status) == words


def test_it_outlives_the_thread_that_requested_it(start: Start) -> None:
    """The kernel's signal at a parent's error comes when a thread of it ends, if that thread had the child."""
    made: list[QemuProcess] = []
    thread = threading.Thread(target=lambda: made.append(start("sleep", "60")))
    thread.start()
    thread.join()
    assert not made[0].wait(0.3)
    made[0].kill()


def test_a_process_that_the_kernel_does_not_end_is_the_hosts_fault(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start("sleep", "60")
    monkeypatch.setattr(process_module, "_DYING", 0.2)
    monkeypatch.setattr(process._process, "send", lambda number: None)
    with pytest.raises(HostError, match=rf"QEMU \(process {process.pid}\) is not gone 0 s after SIGKILL") as caught:
        process.kill()
    assert caught.value.evidence.startswith("State:")
    monkeypatch.undo()
    process.kill()


def test_a_qemu_that_cannot_be_started_is_the_hosts_fault(start: Start) -> None:
    with pytest.raises(LaunchError, match="QEMU cannot be started: Argument list too long"):
        start("sh", *["x" * 100_000] * 40)
