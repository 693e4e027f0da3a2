"""The access methods on the reference image: each method on each device, across reboots, power cuts and crashes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lifsea_testbed.errors import BootFailed, NotJudged
from lifsea_testbed.machine.factory import MachineSpec
from lifsea_testbed.profiles.profile import AccessMethod, ChannelDevice
from tests.support.real import bench, change_access, machine, pool

pytestmark = [pytest.mark.nightly, pytest.mark.boots]
#: Removes what the method `user-data` installed: its unit, and its replacement of the console's getty.
CLOSE = "rm -rf /etc/systemd/system/basic.target.wants /etc/systemd/system/*getty@*; systemctl daemon-reload"
#: Replaces the getty's command line, so that root is logged in without a password.
AUTOLOGIN = r"""mkdir -p /etc/systemd/system/serial-getty@ttyS0.service.d
printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 %%I vt220\n' \
    >/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf"""


@pytest.mark.parametrize("line", list(ChannelDevice))
def test_user_data_opens_a_shell_on_any_line_after_each_kind_of_boot(tmp_path: Path, line: ChannelDevice) -> None:
    with machine(tmp_path, line=line) as own:
        boot_ids = [own.boot_id]
        for come_back in (own.reboot, own.power_cut, own.crash):
            come_back()
            boot_ids.append(own.boot_id)
        assert own.run("id -u").stdout == "0\n"
        assert len(set(boot_ids)) == 4
        assert len(list(own.records.glob("transcript-*.txt"))) == 4


@pytest.mark.parametrize("line", [ChannelDevice.SERIAL, ChannelDevice.VIRTIO])
def test_a_login_with_a_password_opens_a_shell(tmp_path: Path, line: ChannelDevice) -> None:
    with bench(tmp_path, line=line) as made, made.create(MachineSpec(name="machine")) as own:
        own.run(CLOSE)
        own.run("echo root:opensesame | chpasswd; systemctl enable serial-getty@hvc0.service")
        change_access(made, methods=[AccessMethod.LOGIN], line=line, password="opensesame")
        own.reboot()
        assert own.access_method == AccessMethod.LOGIN
        assert own.run(["printf", "%s", "a b\n"]).stdout == "a b\n"


@pytest.mark.parametrize("line", list(ChannelDevice))
def test_the_clock_of_a_restored_machine_is_set_on_any_device(tmp_path: Path, line: ChannelDevice) -> None:
    """On the port a program waits for the time; on serial lines it is started for that."""
    with pool(tmp_path, line=line) as lender, lender.restored("machine") as own:
        assert abs(float(own.run("date +%s.%N").stdout) - time.time()) < 1.0
        template = lender.snapshot()
        assert template and bool(template.facts.reseed_nonce) is (line is ChannelDevice.PORT)


def test_a_prompt_that_is_there_already_is_used(tmp_path: Path) -> None:
    with bench(tmp_path, line=ChannelDevice.SERIAL) as made, made.create(MachineSpec(name="machine")) as own:
        own.run(CLOSE)
        own.run(AUTOLOGIN)
        change_access(made, methods=[AccessMethod.PROMPT], line=ChannelDevice.SERIAL)
        own.reboot()
        assert own.access_method == AccessMethod.PROMPT
        assert own.run("id -u").stdout == "0\n"


def test_without_a_shell_a_console_line_shows_that_the_system_is_up(tmp_path: Path) -> None:
    with bench(tmp_path, methods=[AccessMethod.NONE]) as made:
        boot = made.profile.boot.model_copy(update={"ready_line": "login: ?$"})
        made.profile = made.profile.model_copy(update={"boot": boot})
        with made.create(MachineSpec(name="machine")) as own:
            own.wait_until_ready()
            assert 150 < len(own.guest.packages.installed()) < 220  # read from the disk
            with pytest.raises(NotJudged, match="no shell"):
                own.guest.network.ssh_listeners()
            assert "/latest/user-data" in [seen.path for seen in own.requests]


def test_without_a_shell_an_assistant_that_never_answers_is_a_failed_boot(tmp_path: Path) -> None:
    with bench(tmp_path, methods=[AccessMethod.NONE]) as made:
        boot = made.profile.boot.model_copy(update={"shell_within": 2.0})
        made.profile = made.profile.model_copy(update={"boot": boot})
        with pytest.raises(BootFailed, match="Assistant"), made.create(MachineSpec(name="machine")):
            pass
