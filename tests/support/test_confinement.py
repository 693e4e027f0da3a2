"""A confined program: without privileges, network, files and environment of its owner; what a host lacks is said."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.errors import HostError
from lifsea_testbed.support import confinement as module
from lifsea_testbed.support import programs, user_range
from lifsea_testbed.support.confined_process import ConfinedProcess
from lifsea_testbed.support.confinement import Confinement, Isolation, Limits, confined, exit_status, isolation
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.programs import Ended, clean_environment, run_tool

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses users")
isolated = pytest.mark.skipif(not isolation().is_full, reason=f"no namespaces here: {isolation()}")
ONE_USER = "import sys, time\nfrom lifsea_testbed.support import user_range\nwith user_range.taken() as number:\n" \
           "    print(number, flush=True)\n    sys.stdin.read()\n"  # fmt: skip


@pytest.fixture
def box() -> Iterator[Confinement]:
    with confined() as confinement:
        yield confinement


@pytest.fixture
def without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "isolation", lambda: Isolation(missing=("files",), why="not allowed"))


def run(box: Confinement, script: str, **options: object) -> Ended:
    return run_tool(box.wrap(["sh", "-c", script], **options), within=30.0)  # type: ignore[arg-type]


def fields(box: Confinement) -> dict[str, list[str]]:
    report = run(box, "grep -E '^(Uid|Groups|CapBnd|CapEff|NoNewPrivs):' /proc/self/status").stdout
    return {name: value.split() for name, _, value in (line.partition(":") for line in report.splitlines())}


@as_root
def test_root_gives_its_privileges_away(box: Confinement) -> None:
    none = ["0" * 16]
    assert fields(box) == {"Uid": [str(box.uid)] * 4, "Groups": [], "CapBnd": none, "CapEff": none, "NoNewPrivs": ["1"]}


@as_root
def test_root_gives_its_privileges_away_without_namespaces(box: Confinement, without_namespaces: None) -> None:
    none = ["0" * 16]
    assert fields(box) == {"Uid": [str(box.uid)] * 4, "Groups": [], "CapBnd": none, "CapEff": none, "NoNewPrivs": ["1"]}


@as_root
def test_a_device_of_a_group_is_reached_by_that_group(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o660)
    os.chown(device, 0, 108)
    with confined(device) as confinement:
        assert confinement.groups == (108,) and confinement.uid not in (0, 65534)


@isolated
def test_nothing_of_the_host_is_seen_but_the_system_and_what_is_readable(tmp_path: Path, box: Confinement) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "shown").write_text("shown")
    (tmp_path / "shown").chmod(0o644)
    assert run(box, f"cat {tmp_path}/shown", readable=[tmp_path]).stdout == "shown"
    hidden = run(box, f"ls {tmp_path} /etc/passwd /home /var; touch {tmp_path}/x /x /tmp/x /dev/shm/x /usr/x",
                 readable=[])  # fmt: skip
    assert hidden.stdout == "" and list(tmp_path.iterdir()) == [tmp_path / "shown"]
    assert run(box, "ls /proc | grep -c '^[0-9]'").stdout.strip() in ("3", "4", "5")
    assert run(box, "echo 1 >/proc/sys/kernel/sysrq").returncode != 0


@isolated
def test_what_is_writable_is_written_by_the_confined_user(tmp_path: Path, box: Confinement) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    box.own(directory)
    os.close(directory)
    assert run(box, "echo written >file", directory=tmp_path, writable=[tmp_path]).returncode == 0
    assert (tmp_path / "file").read_text() == "written\n"


@isolated
def test_the_network_is_its_own_and_can_be_entered(tmp_path: Path, box: Confinement) -> None:
    tmp_path.chmod(0o755)
    server = ConfinedProcess(["socat", "TCP4-LISTEN:7007,bind=127.0.0.1,reuseaddr,fork", "EXEC:cat"], box,
                             directory=tmp_path, kept=1000)  # fmt: skip
    deadline, answer = Deadline.after(20.0), ""
    try:
        while not answer and not deadline.expired:
            inside = box.enter_network(server.pid, ["socat", "-t", "10", "STDIO", "TCP4:127.0.0.1:7007"])
            answer = run_tool(inside, within=20.0, input="hello").stdout
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", 7007), timeout=5.0)
    finally:
        server.send(signal.SIGKILL)
        assert server.wait(10.0)
        server.close()
    assert answer == "hello"


def test_the_limits_are_set_and_none_is_above_the_hosts(box: Confinement, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run(box, "ulimit -v; ulimit -f; ulimit -n; ulimit -c; ulimit -t",
                limits=Limits(memory=1 << 30, file_size=1 << 20, files=99, cpu=7)).stdout.split()  # fmt: skip
    assert shown == ["1048576", "2048", "99", "0", "7"]
    monkeypatch.setattr(resource, "getrlimit", lambda number: (1 << 20, 1 << 20))
    assert "--as=1048576" in Limits(memory=1 << 30).options()


def test_a_file_that_becomes_too_large_fails_the_write_and_does_not_end_the_program(box: Confinement) -> None:
    ended = run(box, "kill -XFSZ $$; echo alive", limits=Limits(file_size=0))
    assert ended.stdout.splitlines()[-1] == "alive"


def test_the_environment_is_clean(box: Confinement, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIFSEA_TESTBED_KEY_PASSWORD", "GITHUB_TOKEN", "LD_PRELOAD_X"):
        monkeypatch.setenv(name, "topsecret")
    assert "topsecret" not in run(box, "env").stdout + run_tool(["env"], within=10.0).stdout
    assert clean_environment() == {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    assert clean_environment("GITHUB_TOKEN")["GITHUB_TOKEN"] == "topsecret"


@pytest.mark.parametrize("script", ["exit 3", "kill -SEGV $$", "kill -KILL $$"])
def test_the_status_is_that_of_the_program(box: Confinement, tmp_path: Path, script: str) -> None:
    expected = {"exit 3": 3, "kill -SEGV $$": -11, "kill -KILL $$": -9}[script]
    assert exit_status(run(box, script).returncode) == expected
    process = ConfinedProcess(["sh", "-c", f"echo said; {script}"], box, directory=tmp_path, kept=100)
    assert process.wait(10.0) and process.status == expected and process.output() == b"said\n"
    process.close()


def test_only_the_last_output_is_kept(box: Confinement, tmp_path: Path) -> None:
    process = ConfinedProcess(["sh", "-c", "head -c 3000000 /dev/zero; printf end"], box, directory=tmp_path, kept=10)
    assert process.wait(30.0) and process.output() == b"\0" * 7 + b"end"
    process.close()


def test_a_host_without_bwrap_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = isolation.__wrapped__()
    assert not found.is_full and found.namespaces == () and "bubblewrap" in found.hint
    assert "not own network, files, IPC, processes: bwrap is not installed" in str(found)


def test_what_the_kernel_forbids_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(command: list[str], **options: object) -> Ended:
        return Ended(command, int("--unshare-pid" in command), "", "bwrap: Can't mount proc: Operation not permitted\n")

    monkeypatch.setattr(module, "run_tool", refused)
    found = isolation.__wrapped__()
    assert (found.namespaces, found.missing) == (("network", "files", "IPC"), ("processes",))
    assert "Operation not permitted" in str(found) and found.hint
    monkeypatch.setattr(module, "run_tool", lambda command, **options: Ended(command, 1, "", "bwrap: no\n"))
    assert isolation.__wrapped__().namespaces == ()


# Users


@as_root
def test_a_user_is_nobody_elses_until_it_is_given_back() -> None:
    with user_range.taken() as one, user_range.taken() as other:
        assert one != other
        with subprocess.Popen([sys.executable, "-c", ONE_USER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as process:  # fmt: skip
            assert process.stdout is not None
            assert int(process.stdout.readline()) not in (one, other)
            process.kill()


@as_root
def test_what_an_earlier_owner_left_is_killed() -> None:
    with user_range.taken() as number:
        pass
    left = subprocess.Popen(["setpriv", "--reuid", str(number), "--clear-groups", "sleep", "60"])
    deadline = Deadline.after(10.0)
    while user_range.processes_of(number) == [] and not deadline.expired:
        pass
    with user_range.taken() as again:
        assert again == number and left.wait(10.0) == -signal.SIGKILL


def test_a_host_with_no_user_left_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_range, "of_this_host", lambda text: range(0))
    with pytest.raises(HostError, match="no user number is free"), user_range.taken():
        pass


@pytest.mark.parametrize(("uid_map", "numbers"), [
    ("         0          0 4294967295\n", range(2097152, 2101248)),
    ("0 100000 65536\n", range(61440, 65536)), ("0 1000 1\n1 100000 65536\n", range(61441, 65537)),
])  # fmt: skip
def test_the_numbers_are_those_that_the_namespace_has(uid_map: str, numbers: range) -> None:
    assert user_range.of_this_host(uid_map) == numbers


def test_a_program_that_is_late_is_killed() -> None:
    with pytest.raises(programs.Late, match="did not end within 0 s"), contextlib.suppress(TimeoutError):
        run_tool(["sleep", "60"], within=0.2)
