"""Machines on a private network: they reach each other, and links do to them what they were told."""

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
    """Comes up unless it is told not to, and says when it is gone."""

    def __init__(self, name: str, story: list[str], trouble: Exception | None = None) -> None:
        self.name, self.story, self.trouble = name, story, trouble

    def __enter__(self) -> FakeMachine:
        if self.trouble:
            raise self.trouble
        self.story.append(f"{self.name} up")
        return self

    def __exit__(self, *_: object) -> None:
        self.story.append(f"{self.name} gone")


def test_where_one_does_not_come_up_none_is_left() -> None:
    story: list[str] = []
    contexts = [FakeMachine("one", story), FakeMachine("two", story, OSError("no")), FakeMachine("three", story)]
    with pytest.raises(OSError, match="no"), fleet(contexts):  # type: ignore[arg-type]
        pass
    assert sorted(story) == ["one gone", "one up", "three gone", "three up"]


@pytest.mark.boots
def test_a_fleet_of_machines_without_a_shell_is_not_judged(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network card is there, but nobody can be asked to give it an address."""
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    options = lay_out(pytester.path, SUITE)
    result = pytester.runpytest_subprocess(*options, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*not judged: *no shell*"])
    arguments = sorted(pytester.path.glob("reports/machines/*machine*/qemu-argv.txt"))
    identities = {re.findall(r"-uuid (\S+)", path.read_text())[0] for path in arguments}
    assert len(identities) == len(arguments) == 2
    assert list((pytester.path / "tmp").iterdir()) == []


def unread(wire: socket.socket) -> int:
    """How many bytes the far end has not read yet."""
    return int(struct.unpack("i", fcntl.ioctl(wire, termios.TIOCOUTQ, bytes(4)))[0])


@pytest.mark.boots
def test_a_card_that_is_attached_takes_frames(tmp_path: Path) -> None:
    """QEMU reads the first frame whatever the guest does; a wire that it lost is never read."""
    lay_out(tmp_path, "")
    context = run_context(image=str(tmp_path / "disk.raw"), profile=str(tmp_path / "quick.toml"),
                          instance_type="ecs.g7.large", accelerator="tcg", reports=tmp_path)  # fmt: skip
    near, far = socket.socketpair()
    bench = MachineFactory(context)
    try:
        with near, bench.create(MachineSpec(name="machine")) as machine:
            machine.network.attach_nic(NetworkInterface(plug=lambda: far))
            near.sendall(struct.pack(">I", 60) + b"\xff" * 60)
            deadline = Deadline.after(10.0)
            while unread(near) and not deadline.expired:
                time.sleep(0.02)
            assert unread(near) == 0
    finally:
        bench.close()


def reaches(one: Machine, address: str) -> bool:
    return one.run(["ping", "-c", "1", "-W", "3", address], check=False, within=10.0).ok


def round_trip(one: Machine, address: str) -> float:
    """The shortest of three round trips, in seconds."""
    answer = one.run(["ping", "-c", "3", "-i", "0.3", "-W", "5", address], within=20.0).stdout
    return float(answer.rpartition("= ")[2].partition("/")[0]) / 1000


@contextmanager
def two(reports: Path) -> Iterator[Fleet]:
    with real.bench(reports) as bench, \
            FleetMaker("two", bench) as machines:  # fmt: skip
        yield machines(2)


@pytest.mark.nightly
@pytest.mark.boots
def test_two_machines_on_a_network_of_their_own(tmp_path: Path) -> None:
    with two(tmp_path) as made:
        one, other = made
        there, link = made.network.address(other), made.network.link(one, other)
        assert one.instance.id != other.instance.id and one.guest.system.identity() != other.guest.system.identity()
        assert reaches(one, there) and reaches(other, made.network.address(one))
        whole = round_trip(one, there)
        link.delay(0.4)
        assert 0.8 <= round_trip(one, there) < 0.8 + whole + 0.5
        link.restore()
        link.cut()
        assert not reaches(one, there)
        link.restore()
        assert reaches(one, there)
        link.lose(0.5, seed=1)
        one.run(["ping", "-c", "40", "-i", "0.05", "-W", "1", there], check=False, within=30.0)
        assert 10 <= link.count.lost <= 60
        link.restore()
        other.reboot()
        made.network.configure(other)
        assert reaches(one, there)
