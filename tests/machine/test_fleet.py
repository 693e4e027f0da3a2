"""Machines on a private network: they reach each other, as far as the links between them let frames pass."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lifsea_testbed.ecs.instance import NetworkInterface
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.fleet import Fleet, FleetMaker, fleet
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.support.deadline import Deadline
from tests.support import real
from tests.support.quick import lay_out

SUITE = """
from lifsea_testbed import claim

@claim("no-sshd")
def test_fleet(machines):
    machines(2)
"""


class FakeMachine:
    """Comes up unless it has an error to raise, and records its start and its end."""

    def __init__(self, name: str, events: list[str], error: Exception | None = None) -> None:
        self.name, self.events, self.error = name, events, error

    def __enter__(self) -> FakeMachine:
        if self.error:
            raise self.error
        self.events.append(f"{self.name} up")
        return self

    def __exit__(self, *_: object) -> None:
        self.events.append(f"{self.name} gone")


def test_where_one_does_not_come_up_none_is_left() -> None:
    events: list[str] = []
    contexts = [FakeMachine("one", events), FakeMachine("two", events, OSError("no")), FakeMachine("three", events)]
    with pytest.raises(OSError, match="no"), fleet(contexts):  # type: ignore[arg-type]
        pass
    assert sorted(events) == ["one gone", "one up", "three gone", "three up"]


@pytest.mark.boots
def test_a_fleet_of_machines_without_a_shell_is_not_judged(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The NIC is attached, but without a shell its address cannot be configured."""
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    options = lay_out(pytester.path, SUITE)
    result = pytester.runpytest_subprocess(*options, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*not judged by image: *no shell*"])
    arguments = sorted(pytester.path.glob("reports/machines/*machine*/qemu-argv.txt"))
    identities = {re.findall(r"-uuid (\S+)", path.read_text())[0] for path in arguments}
    assert len(identities) == len(arguments) == 2
    assert list((pytester.path / "tmp").iterdir()) == []


def unread(connection: socket.socket) -> int:
    """The number of bytes that the far end has not read yet."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


@pytest.mark.boots
def test_an_attached_nic_receives_frames(tmp_path: Path) -> None:
    """QEMU reads the first frame even if the guest ignores it; a connection that QEMU lost is never read."""
    lay_out(tmp_path, "")
    context = run_context(image=str(tmp_path / "disk.raw"), profile=str(tmp_path / "quick.toml"),
                          instance_type="ecs.g7.large", accelerator="tcg", reports=tmp_path)  # fmt: skip
    near, far = socket.socketpair()
    factory = MachineFactory(context)
    try:
        with near, factory.create(MachineSpec(name="machine")) as machine:
            machine.network.attach_nic(NetworkInterface(plug=lambda: far))
            near.sendall(struct.pack(">I", 60) + b"\xff" * 60)
            deadline = Deadline.after(10.0)
            while unread(near) and not deadline.expired:
                time.sleep(0.02)
            assert unread(near) == 0
    finally:
        factory.close()


def reaches(one: Machine, address: str) -> bool:
    return one.run(["ping", "-c", "1", "-W", "3", address], check=False, within=10.0).ok


def round_trip(one: Machine, address: str) -> float:
    """The shortest of three round trips, in seconds."""
    answer = one.run(["ping", "-c", "3", "-i", "0.3", "-W", "5", address], within=20.0).stdout
    return float(answer.rpartition("= ")[2].partition("/")[0]) / 1000


@contextmanager
def two(reports: Path) -> Iterator[Fleet]:
    with real.bench(reports) as factory, \
            FleetMaker("two", factory) as machines:  # fmt: skip
        yield machines(2)


@pytest.mark.nightly
@pytest.mark.boots
def test_two_machines_on_a_network_of_their_own(tmp_path: Path) -> None:
    with two(tmp_path) as made:
        one, other = made
        address, link = made.network.address(other), made.network.link(one, other)
        assert one.instance.id != other.instance.id and one.guest.system.identity() != other.guest.system.identity()
        assert reaches(one, address) and reaches(other, made.network.address(one))
        undelayed = round_trip(one, address)
        link.delay(0.4)
        assert 0.8 <= round_trip(one, address) < 0.8 + undelayed + 0.5
        link.restore()
        link.cut()
        assert not reaches(one, address)
        link.restore()
        assert reaches(one, address)
        link.lose(0.5, seed=1)
        one.run(["ping", "-c", "40", "-i", "0.05", "-W", "1", address], check=False, within=30.0)
        assert 10 <= link.count.lost <= 60
        link.restore()
        other.reboot()
        made.network.configure(other)
        assert reaches(one, address)
