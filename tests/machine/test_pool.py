"""The pool: machines restored from a snapshot, one that does not restore, and machines that are kept."""

from __future__ import annotations

import contextlib
import json
import random
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest

from lifsea_testbed.console import user_data
from lifsea_testbed.ecs.metadata import TOKEN_HEADER, TTL_HEADER, Metadata, Request
from lifsea_testbed.errors import TestbedError
from lifsea_testbed.machine import clock_reseed, snapshot_cache
from lifsea_testbed.machine import snapshot as snapshots
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.pool import MachinePool
from lifsea_testbed.machine.snapshot import Snapshot
from lifsea_testbed.machine.snapshot_cache import SnapshotCache
from lifsea_testbed.profiles.profile import AccessMethod, AccessSection
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.support.deadline import Deadline
from tests.support import changes, real
from tests.support.snapshots import INSTANCE, KEY, make


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[SnapshotCache]:
    with SnapshotCache(tmp_path / "templates") as cache:
        yield cache


def test_the_tokens_and_the_requests_of_the_metadata_service_are_restored() -> None:
    first = Metadata(INSTANCE, user_data=b"", clock=lambda: 100.0, token_required=True)
    token = first.answer(Request(method="PUT", path="/latest/api/token", headers={TTL_HEADER: "60"})).body.decode()
    later = Metadata(INSTANCE, user_data=b"", clock=lambda: 5000.0, token_required=True)
    later.restore(first.tokens, first.requests)
    request = Request(method="GET", path="/latest/meta-data/mac", headers={TOKEN_HEADER: token})
    assert later.answer(request).body.decode() == INSTANCE.mac
    assert [seen.method for seen in later.requests] == ["PUT", "GET"]


@pytest.mark.parametrize(("version", "can"), [("7.2.22", False), ("8.1.5", False), ("8.2.0", True), ("10.0.2", True)])
def test_an_older_qemu_restores_nothing(version: str, can: bool) -> None:
    assert Emulator(binary="qemu", version=version).can_restore is can


class FakeFactory:
    """The part of a machine factory that the pool uses."""

    def __init__(self) -> None:
        self.announced: list[str] = []
        self.announce = self.announced.append
        self.emulator = Emulator(binary="qemu", version="10.0")
        self.profile = SimpleNamespace(access=AccessSection())
        self.booted = self.data_disk = 0

    @contextlib.contextmanager
    def create(self, spec: MachineSpec) -> Iterator[str]:
        self.booted += 1
        yield f"booted {spec.name}"


class FragilePool(MachinePool):
    """Restores snapshots, except the first ones, which are broken."""

    def __init__(self, factory: Any, cache: SnapshotCache, broken: int) -> None:
        super().__init__(factory, cache)
        self.broken, self.made = broken, 0

    def key(self) -> dict[str, str]:
        return {"format": str(snapshots.FORMAT), **KEY}

    def _make(self, directory: Path) -> None:
        self.made += 1
        make(directory, key=self.key())

    def _resume(self, stack: contextlib.ExitStack, snapshot: Snapshot, name: str) -> Any:
        self.broken -= 1
        if self.broken >= 0:
            raise TestbedError("QEMU refused it")
        return f"restored {name}"


@pytest.mark.parametrize(("broken", "made"), [(0, 1), (1, 2)])
def test_a_snapshot_that_does_not_restore_is_named_and_made_again_once(
    cache: SnapshotCache, broken: int, made: int
) -> None:
    factory = FakeFactory()
    pool = FragilePool(factory, cache, broken)
    for _ in range(3):
        with pool.restored("m") as machine:
            assert str(machine) == "restored m"
    assert pool.made == made
    refusal = "does not restore and is discarded: QEMU refused"
    assert len([line for line in factory.announced if refusal in line]) == broken


def test_where_one_does_not_restore_twice_machines_are_booted_and_it_is_announced(cache: SnapshotCache) -> None:
    """A guest can refuse to go on where it was saved: that makes nothing the harness's fault."""
    factory = FakeFactory()
    pool = FragilePool(factory, cache, 2)
    for _ in range(2):
        with pool.restored("m") as machine:
            assert str(machine) == "booted m"
    assert pool.made == 2 and "that was just made does not restore" in pool.why_cold
    assert sum(line.startswith("not restored: a snapshot that was just made") for line in factory.announced) == 1


def test_where_nothing_can_be_restored_machines_are_booted_and_the_reason_is_known(cache: SnapshotCache) -> None:
    old, mute = FakeFactory(), FakeFactory()
    old.emulator = Emulator(binary="qemu", version="7.2.22")
    mute.profile = SimpleNamespace(access=AccessSection(methods=[AccessMethod.NONE]))
    able = FakeFactory()
    cases = ((old, False, "QEMU 7.2.22 cannot"), (mute, False, "no shell"), (able, True, "--cold"))
    for factory, cold, reason in cases:
        pool = MachinePool(factory, cache, cold=cold)  # type: ignore[arg-type]
        assert reason in pool.why_cold
        with pool.restored("m") as machine:
            assert str(machine) == "booted m"


# Real machines


@pytest.mark.boots
@pytest.mark.parametrize("script", ["channel.sh", "terminal.sh"])
def test_a_snapshot_with_the_channel_of_another_test_bed_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """The agent of access method user-data, and the one typed at a login, are both in the memory of a saved guest."""
    agent = user_data.agent
    with real.bench(tmp_path) as factory:
        before = snapshot_cache.key(factory)
        assert snapshot_cache.key(factory) == before
        monkeypatch.setattr(user_data, "agent", lambda name: agent(name) + ("# later\n" if name == script else ""))
        after = snapshot_cache.key(factory)
    assert {name for name in before if before[name] != after[name]} == {"user-data"}


_MONTH = 30 * 86_400 * 1_000_000
_INVOCATIONS = "systemctl show -p Id -p InvocationID '*.service'"


def assert_a_step_starts_nothing(machine: Machine) -> None:
    """A guest whose clock is stepped by a month runs the same services as before, and starts none."""
    before, ahead = machine.run(_INVOCATIONS).stdout, time.time() + _MONTH / 1e6
    assert abs(clock_reseed.step_and_reseed(machine, step=_MONTH) / 1e6 - ahead) < 5
    machine.boot.liveness.pause(2.0, Deadline.after(2.0))
    assert machine.run(_INVOCATIONS).stdout == before


@pytest.mark.boots
def test_restored_machines_are_clean_and_not_each_other(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []
    with real.pool(tmp_path) as pool:
        for number in range(2):
            with pool.restored(f"restored-{number}") as machine:
                assert abs(float(machine.run("date +%s.%N").stdout) - time.time()) < 1.0
                assert machine.run("test -e /etc/changed || test -e /var/changed", check=False).exit_status == 1
                machine.run("echo x | tee /etc/changed >/var/changed; sync")
                assert not machine.boot.disk_is_untouched
                instance_id = machine.run("curl -s http://100.100.100.200/latest/meta-data/instance-id").stdout
                assert instance_id == machine.instance.id
                assert machine.requests and machine.shell_after > 0 and (machine.restored_in or 0) > 0
                assert pool.snapshot().facts.reseed_nonce  # type: ignore[union-attr]
                assert "Linux version" in (machine.records / "template-journal.txt").read_text()
                assert abs(machine.guest.hardware.clock_offset()) <= 2
                seen.append({"uuid": machine.run("cat /proc/sys/kernel/random/uuid").stdout,
                             "random": machine.run("head -c 16 /dev/urandom | od -An -tx1").stdout,
                             "id": machine.run("cat /etc/machine-id").stdout, "boot": machine.boot_id})  # fmt: skip
                if number:
                    assert_a_step_starts_nothing(machine)
    one, other = seen
    assert one["id"] == other["id"] and one["boot"] == other["boot"]
    assert one["uuid"] != other["uuid"] and one["random"] != other["random"]


#: The directory of the snapshots; pytester has a home directory of its own.
CACHE = snapshot_cache.directory().parent.parent
FAILS = """
def test_fails(machine):
    machine.run("echo in-memory >/run/state; echo on-disk >/etc/state; sleep 4242 >/dev/null 2>&1 &")
    assert machine is None
"""


@pytest.mark.boots
def test_the_machine_of_a_failed_test_is_kept_and_resumes_in_its_state(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    pytester.makepyfile(test_failing=FAILS)
    ran = pytester.runpytest_subprocess("--image", str(real.built("reference")), "--profile", "reference",
                                        "-p", "no:cacheprovider", "--keep", "on-failure")  # fmt: skip
    ran.assert_outcomes(failed=1)
    (line,) = [line for line in ran.outlines if "shell --kept" in line]
    python, *command = shlex.split(line.partition(": ")[2])
    assert python == "python"
    kept = pytester.path / command[-1]
    figures = [json.loads(line) for line in (pytester.path / "reports/metrics.jsonl").read_text().splitlines()]
    assert [figure["metric"]["name"] for figure in figures] == ["restore"]
    before = stamps(kept)
    for _ in range(2):
        shell = pexpect.spawn(sys.executable, command, cwd=str(pytester.path), timeout=120)
        shell.expect("powers on")
        shell.expect(r"[#$] ")
        shell.sendline("cat /run/state /etc/state; pgrep -fx 'sleep 4242' >/dev/null && echo still-$((40+2))")
        shell.expect("in-memory\r\r?\non-disk\r\r?\nstill-42")
        shell.sendline("[ -e /etc/new ] || echo first-$((40+2)); rm /etc/state; echo >/etc/new; sync")
        shell.expect("first-42")
        shell.send("\x1d")
        shell.expect("the transcript is in")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 0
    assert stamps(kept) == before


def stamps(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.rglob("*")}


CHUNKS, RESTORES = 10, 100


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_of_a_thousand_restored_machines_none_sees_the_change_of_another(tmp_path: Path, chunk: int) -> None:
    draw = random.Random(chunk)
    seen: set[str] = set()
    with real.pool(tmp_path) as pool:
        for number in range(RESTORES):
            with pool.restored("restored") as machine:
                changes.require_none(machine)
                seen.add(machine.run("cat /proc/sys/kernel/random/uuid").stdout)
                change = draw.choice(changes.CHANGES)
                machine.run(change.format(number=number))
                machine.run(draw.choice(changes.COMMANDS))
    assert len(seen) == RESTORES
