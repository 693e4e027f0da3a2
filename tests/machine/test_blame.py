"""Blame: a failure on a real machine ends every wait at once, with the right error and evidence."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lifsea_testbed.console.transcript import Transcript
from lifsea_testbed.errors import (
    AnswerUnreadable,
    ChannelError,
    DiskDamaged,
    Explained,
    GuestCrashed,
    HostError,
    LaunchError,
    MachineStarved,
    TimerStarved,
    WaitTimedOut,
)
from lifsea_testbed.machine import diagnosis
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.qemu.processor_share import WithheldTime
from lifsea_testbed.support.liveness import Liveness
from tests.support.real import machine

pytestmark = [pytest.mark.nightly, pytest.mark.boots]
#: A failure that can be detected is raised within this time (seconds).
AT_ONCE = 1.0
_MAIN = "systemctl show --property=MainPID --value lifsea-testbed-shell.service"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path) as made:
        made.wait_until_ready()
        yield made


def ends(machine: Machine, kind: type[Explained], script: str = "sleep 600", *, within: float = 60.0,
         after: float = 0.0) -> Explained:
    """The error that a command ends with; it has to be raised at once, `after` seconds from now."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        machine.run(script, within=within)
    assert type(caught.value) is kind
    assert time.monotonic() - started < after + AT_ONCE
    return caught.value


def in_a_second(act: Callable[[], object]) -> None:
    threading.Timer(1.0, act).start()


def test_a_guest_that_panics(own: Machine) -> None:
    error = ends(own, GuestCrashed, "sleep 1; echo c >/proc/sysrq-trigger; sleep 600", after=3.0)
    assert "sysrq triggered crash" in error.evidence.lower()


def test_a_guest_that_resets_itself(own: Machine) -> None:
    assert "reset" in ends(own, GuestCrashed, "sleep 1; echo b >/proc/sysrq-trigger; sleep 600", after=3.0).happened


def test_a_guest_whose_processors_are_stopped(own: Machine) -> None:
    in_a_second(lambda: own.boot.execute("stop"))
    error = ends(own, HostError, within=0.3, after=0.3 * own._time_scale.factor + 10.0)
    assert "paused" in error.happened


def test_a_guest_that_hangs(own: Machine) -> None:
    own.run(f"(sleep 1; kill -STOP $({_MAIN})) >/dev/null 2>&1 &")
    error = ends(own, WaitTimedOut, "kill -STOP $$", within=0.3, after=0.3 * own._time_scale.factor + 10.0)
    assert "could not be killed" in error.happened or "was killed" in error.happened


@pytest.mark.parametrize("how", [f"kill -KILL $({_MAIN})", "systemctl kill --signal=KILL lifsea-testbed-shell.service"])
def test_a_shell_that_is_killed(own: Machine, how: str) -> None:
    own.run(f"systemd-run --no-block sh -c 'sleep 1; {how}'")
    assert "shell in the guest exited" in ends(own, ChannelError, after=3.0).happened
    assert own.run("echo back").stdout == "back\n"


def test_a_shell_whose_port_is_closed_for_good(own: Machine) -> None:
    own.run("systemd-run --no-block sh -c 'sleep 1; systemctl stop lifsea-testbed-shell.service'")
    ends(own, ChannelError, after=3.0)
    assert "does not answer any more" in ends(own, ChannelError, after=10.0).happened


def test_a_qemu_that_is_killed(own: Machine) -> None:
    in_a_second(lambda: os.kill(own.boot.process.pid, signal.SIGKILL))
    assert "SIGKILL" in ends(own, LaunchError, after=1.0).happened


def test_a_qemu_that_is_stopped(own: Machine) -> None:
    in_a_second(lambda: os.kill(own.boot.process.pid, signal.SIGSTOP))
    error = ends(own, HostError, within=0.3, after=0.3 * own._time_scale.factor + 12.5)
    assert "stopped" in error.evidence


def test_a_disk_that_fails(own: Machine) -> None:
    own.boot.execute("blockdev-add", {
        "driver": "blkdebug", "node-name": "failing", "image": "overlay-file",
        "inject-error": [{"event": "none", "iotype": "write", "errno": 5}],
    })  # fmt: skip
    own.boot.execute("blockdev-reopen", {"options": [{
        "driver": "qcow2", "node-name": "overlay", "file": "failing", "backing": "image", "discard": "unmap",
    }]})  # fmt: skip
    error = ends(own, DiskDamaged, "dd if=/dev/urandom of=/var/x bs=1M count=50; sync; sleep 600", after=20.0)
    assert "disk failed to write" in error.happened and "the host reads image and overlay whole" in error.evidence


#: What a guest's kernel prints when something took too long.
LATE = ["watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "INFO: task a:1 blocked for more than 120 seconds.",
        "rcu: x kthread timer wakeup didn't happen for 2001 jiffies!"]  # fmt: skip


@pytest.mark.parametrize("line", LATE)
@pytest.mark.parametrize("starved", [False, True])
def test_a_kernel_for_which_something_took_too_long(
    own: Machine, monkeypatch: pytest.MonkeyPatch, line: str, starved: bool
) -> None:
    """Behind the login prompt, which stands on ttyS0; the host is at fault only where it withheld the processor."""
    own.wait_until(lambda: "login: " in own.boot.transcript.tail(1), "the login prompt stands on ttyS0", within=10.0)
    monkeypatch.setattr(diagnosis, "withheld", lambda samples, within: WithheldTime(
        seconds=0.9 * within if starved else 0.0, ran=1.0, within=within))  # fmt: skip
    host = TimerStarved if "timer" in line else MachineStarved
    error = ends(own, host if starved else GuestCrashed, f'sleep 1; echo "<2>{line}" >/dev/kmsg; sleep 600', after=3.0)
    assert line in error.happened and "withheld the processor" in error.evidence
    (found,) = (seen for seen in own.boot.transcript.since() if line in seen.text)
    assert found.at > own.shell_after, "its time is that of the prompt"


def test_a_guest_that_prints_the_words(own: Machine) -> None:
    own.run("echo 'a log of [    1.000000] Kernel panic - not syncing: gone, and of kernel BUG at x.c:1' >/dev/ttyS0")
    assert own.run("sleep 1; echo up").stdout == "up\n"


def test_a_guest_whose_answer_cannot_be_read(own: Machine) -> None:
    own.run("echo nonsense >/run/nonsense; mount --bind /run/nonsense /proc/uptime")
    with pytest.raises(AnswerUnreadable, match="cannot be read") as caught:
        own.guest.kernel.uptime()
    assert "cat /proc/uptime" in caught.value.evidence and "nonsense" in caught.value.evidence


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files that can be filled up."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3500m", "tmpfs", directory], check=True)
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield directory
    subprocess.run(["umount", directory], check=True)


def test_a_host_whose_disk_is_full(small_disk: Path, tmp_path: Path) -> None:
    with machine(tmp_path) as own:
        free = os.statvfs(small_disk)
        with (small_disk / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (8 << 20))
        error = ends(own, HostError, "dd if=/dev/urandom of=/var/x bs=1M count=200; sync; sleep 600", after=20.0)
        assert "disk is full" in error.happened
    (small_disk / "filler").unlink()


def test_a_console_that_floods(tmp_path: Path) -> None:
    """A gigabyte on the console costs time, and no memory."""
    guest, host = socket.socketpair()
    transcript = Transcript(host, liveness=Liveness(), file=tmp_path / "transcript.txt")
    transcript.start(time.monotonic())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    block = b"".join(b"%07d a line of a guest that never stops printing, if anybody reads it or not\r\n" % number
                     for number in range(13_000))  # fmt: skip
    for _ in range((1 << 30) // len(block)):
        guest.sendall(block)
    guest.close()
    transcript.close()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 200 << 10
    assert (tmp_path / "transcript.txt").stat().st_size < 70 << 20
    assert transcript.tail(1).endswith("reads it or not")
