"""A machine that tests share: which differences count as changes, and how a test that made one ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.errors import BootFailed
from lifsea_testbed.guest.changes import SystemState, differences, observe
from lifsea_testbed.machine import pool as pool_module
from lifsea_testbed.machine.pool import SharedMachine, SharedMachineModified
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import AccessMethod, SharingSection
from tests.support import real
from tests.support.fakes import FakeShell

_FIELDS = "S {parent} 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 {start} 1 1\n"
MIB = 1 << 20


def stat(pid: int, name: str, parent: int, start: int) -> str:
    return f"{pid} ({name}) {_FIELDS.format(parent=parent, start=start)}"


#: init, a kernel thread, a daemon, the channel's agent (100), a slot (101), the script's shell (102) and its cat (103).
SYSTEM = (stat(1, "systemd", 0, 1) + stat(2, "kthreadd", 0, 1) + stat(9, "kworker/0:1 ev", 2, 3)
          + stat(50, "container (d) x", 1, 40) + stat(100, "sh", 1, 90) + stat(101, "sh", 100, 91)
          + stat(102, "sh", 101, 99) + stat(103, "cat", 102, 99))  # fmt: skip
MOUNTS = "tmpfs /run tmpfs rw 0 0\nnf_nat 45056 2 nf_conntrack,ipt, Live 0x0\n"


def state(changed: str = "", processes: str = SYSTEM, mounts: str = MOUNTS) -> SystemState:
    return observe(FakeShell({"find": f"{changed}\n102\n{processes}\n{mounts}"}), ["/etc", "/run"])


def changes(after: SystemState) -> list[str]:
    allowed = SharingSection()
    return differences(state(), after, files=allowed.files, processes=allowed.processes)


def test_nothing_changed() -> None:
    assert changes(state()) == []


def test_the_shell_of_the_script_and_kernel_threads_do_not_count() -> None:
    assert {name for _, _, name in state().processes} == {"systemd", "container (d) x", "sh"}
    later = SYSTEM.replace("103 (cat)", "110 (cat)").replace("9 (kworker/0:1 ev)", "10 (kworker/1:1)")
    assert changes(state(processes=later)) == []


@pytest.mark.parametrize(("after", "lines"), [
    (state("/etc\n/etc/new\n"), ["changed: /etc", "changed: /etc/new"]),
    (state(processes=SYSTEM + stat(200, "sleep", 1, 120)), ["process started: sleep"]),
    (state(processes=SYSTEM.replace("50 (container (d) x)", "51 (container (d) x)")),
     ["process ended: container (d) x", "process started: container (d) x"]),
    (state(mounts=f"{MOUNTS}tmpfs /mnt tmpfs rw 0 0\n"), ["new: tmpfs /mnt tmpfs rw 0 0"]),
    (state(mounts="tmpfs /run tmpfs rw 0 0\n"), ["gone: module nf_nat"]),
    (state("/run/lifsea-testbed/1.out\n/run/log/journal/a/system.journal\n/var/lib/kubelet/cpu_manager_state\n"), []),
    (state("/var/lib/kubelet\n/var/lib/kubelet/.123456789\n"), []),
    (state("/var/lib/kubelet/.a\n"), ["changed: /var/lib/kubelet/.a"]),
    (state("/run/credentials\n/run/credentials/systemd-tmpfiles-clean.service\n"), []),
    (state("/run/credentialsx\n"), ["changed: /run/credentialsx"]),
    (state(mounts=MOUNTS.replace(" 2 ", " 3 ")), []),
])  # fmt: skip
def test_every_change_is_named_but_for_what_is_allowed(after: SystemState, lines: list[str]) -> None:
    assert changes(after) == lines


class FakePool:
    """Restores machines that are observed in the given states, one after the other."""

    def __init__(self, *states: SystemState, written: tuple[int, ...] = (), is_sound: bool = True) -> None:
        self.restores, self._is_sound, self.why_cold = 0, is_sound, ""
        self.factory = SimpleNamespace(profile=profiles.load("reference"))
        answers = [FakeShell({"find": "\n".join((*state.changed, "", "102", SYSTEM, MOUNTS))}) for state in states]
        self._answers, self._written = iter(answers), iter((*written, *[0] * 20))

    @contextlib.contextmanager
    def restored(self, name: str) -> Iterator[Any]:
        self.restores += 1
        pool = self

        class Boot:
            liveness = SimpleNamespace(ended=False)

            @property
            def bytes_written(self) -> int:
                return next(pool._written)

        yield SimpleNamespace(access_method=AccessMethod.USER_DATA, boot=Boot(),
                              wait_until_ready=self._wait_until_ready,
                              run=lambda script, **_: next(self._answers).run(script))  # fmt: skip

    def _wait_until_ready(self) -> None:
        if not self._is_sound:
            raise BootFailed("gave up waiting until systemd finishes the boot")


def sharing(pool: Any) -> SharedMachine:
    return SharedMachine(pool)


def test_tests_that_leave_it_as_it_is_share_one_machine() -> None:
    pool = FakePool(state(), state(), state())
    shared = sharing(pool)
    for _ in range(2):
        with shared.use():
            pass
    assert pool.restores == 1


def test_a_test_that_changes_it_is_at_fault_and_the_next_one_gets_another() -> None:
    pool = FakePool(state(), state("/etc/passwd\n"), state(), state())
    shared = sharing(pool)
    with pytest.raises(SharedMachineModified, match="shares with others") as caught, shared.use():
        pass
    assert caught.value.blame == "harness" and "/etc/passwd" in caught.value.evidence
    with shared.use():
        pass
    assert pool.restores == 2


def test_a_boot_that_does_not_finish_is_no_fault_of_the_test_but_costs_the_machine() -> None:
    pool = FakePool(state(), state("/var/log/cloud-init.log\n"), state(), state(), is_sound=False)
    shared = sharing(pool)
    for _ in range(2):
        with shared.use():
            pass
    assert pool.restores == 2


@pytest.mark.parametrize(("why_cold", "waits"), [("--cold was given", 1), ("", 0)])
def test_a_machine_that_was_booted_becomes_quiet_before_it_is_observed(
    monkeypatch: pytest.MonkeyPatch, why_cold: str, waits: int
) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(pool_module, "wait_until_quiet", waited.append)
    pool = FakePool(state(), state(), state())
    pool.why_cold = why_cold
    shared = sharing(pool)
    for _ in range(2):
        with shared.use():
            pass
    assert len(waited) == waits


def test_too_many_bytes_written_to_the_disk_are_a_change() -> None:
    shared = sharing(FakePool(state(), state(), written=(0, 300 * MIB)))
    with pytest.raises(SharedMachineModified) as caught, shared.use():
        pass
    assert "300 MiB were written" in caught.value.evidence


@pytest.mark.nightly
@pytest.mark.boots
def test_real_changes_are_found_and_reading_is_none(tmp_path: Path) -> None:
    with real.pool(tmp_path) as pool:
        shared = sharing(pool)
        with shared.use() as first:
            first.run("find /etc /usr -type f | wc -l; systemctl is-system-running; ls -lR /var >/dev/null || true")
        for script, trace in (("echo x >>/etc/hostname", "/etc/hostname"), ("touch /var/lib/x", "/var/lib/x"),
                              ("sleep 300 >/dev/null 2>&1 &", "process started: sleep"),
                              ("mount -t tmpfs x /mnt", "/var/mnt")):
            with pytest.raises(SharedMachineModified) as caught, shared.use() as machine:
                machine.run(script)
            assert trace in caught.value.evidence
        shared.close()
