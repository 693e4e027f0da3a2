"""Systems that are built otherwise than LifseaOS: without systemd, with a /run from which no program runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.pool import MachinePool
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.machine.snapshot_cache import SnapshotCache
from lifsea_testbed.profiles.profile import AccessMethod, ChannelDevice
from tests.support import busybox
from tests.support.real import built, change_access

pytestmark = [pytest.mark.nightly, pytest.mark.boots]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of a system of busybox."""
    return busybox.busybox(tmp_path_factory.mktemp("busybox"), built("reference"))


@contextlib.contextmanager
def factory(system: Path, place: Path) -> Iterator[MachineFactory]:
    profile = place / "busybox.toml"
    profile.write_text(busybox.PROFILE)
    context = run_context(image=str(system), profile=str(profile), instance_type="ecs.g7.large", accelerator="auto",
                          reports=place)  # fmt: skip
    with contextlib.closing(MachineFactory(context)) as made:
        yield made


def test_without_systemd_user_data_opens_a_shell_at_each_boot(system: Path, tmp_path: Path) -> None:
    """It has no units to wait for, and none to judge."""
    with factory(system, tmp_path) as made, made.create(MachineSpec(name="machine")) as machine:
        machine.wait_until_ready()
        with pytest.raises(NotJudged, match="not started by systemd"):
            machine.guest.units.failed()
        for come_back in (machine.reboot, machine.power_cut):
            come_back()
            assert machine.access_method == AccessMethod.USER_DATA
        assert machine.guest.system.user_data_runs() == ["0"]


def test_machines_are_restored_though_no_program_runs_from_run(system: Path, tmp_path: Path) -> None:
    with factory(system, tmp_path) as made:
        pool = MachinePool(made, SnapshotCache(tmp_path / "snapshots"))
        with contextlib.closing(pool), pool.restored("machine") as machine:
            assert machine.run("grep ' /run .*noexec' /proc/mounts").ok
            assert pool.why_cold == "" and machine.restored_in is not None
            assert machine.run("ls /dev/shm").lines == ["lifsea-testbed-clock"]


def test_a_shell_that_init_opens_on_the_console_is_the_systems(system: Path, tmp_path: Path) -> None:
    """It runs from the disk that the kernel was told to mount."""
    with factory(system, tmp_path) as made, made.create(MachineSpec(name="machine")) as machine:
        machine.run("echo 'ttyS0::respawn:/bin/sh -i' >>/etc/inittab; sync")
        change_access(made, methods=[AccessMethod.PROMPT], line=ChannelDevice.SERIAL)
        machine.reboot()
        assert (machine.access_method, machine.run("id -u").stdout) == (AccessMethod.PROMPT, "0\n")
