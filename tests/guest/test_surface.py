"""The attack surface of a guest is read correctly: ports, privileges, settings, leftovers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest import accounts, network, packages, system
from lifsea_testbed.guest.accounts import Accounts
from lifsea_testbed.guest.cri import ContainerRuntime
from lifsea_testbed.guest.files import Files
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.guest.network import GuestNetwork
from lifsea_testbed.guest.ostree import Deployments
from lifsea_testbed.guest.system import System
from lifsea_testbed.guest.units import Units
from lifsea_testbed.profiles.profile import ClusterSection
from tests.support.fakes import FakeShell

TABLES = """\
tcp   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
tcp    0: 0100007F:2808 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 844 1 0 100 0 0 10 0
tcp    1: 0F076464:A1B2 C8646464:0050 01 00000000:00000000 00:00000000 00000000     0        0 845 1 0 100 0 0 10 0
tcp    0: 00000000000000000000000000000000:280A 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 846 1 0
udp    7: 0100007F:0143 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 847 2 0 0
udp    8: 0F076464:84C5 88026464:0035 01 00000000:00000000 00:00000000 00000000   100        0 848 2 0 0
"""
OWNERS = "/proc/9/fd socket:[844]\n/proc/9/fd socket:[846]\n/proc/11/fd socket:[845]\n"
PROGRAMS = "/proc/9/comm:kubelet\n/proc/11/comm:curl\n"
PORTS = ["tcp 127.0.0.1:10248 kubelet", "tcp :::10250 kubelet", "udp 127.0.0.1:323 kernel"]


def test_a_port_is_named_with_its_program() -> None:
    assert network.parse_open_ports(TABLES, OWNERS, PROGRAMS) == PORTS


def test_ports_are_joined_from_three_commands() -> None:
    shell = FakeShell({"for table": TABLES, "find /proc": OWNERS, "grep -H": PROGRAMS})
    assert GuestNetwork(shell).open_ports() == PORTS


def test_a_port_is_listed_or_not() -> None:
    shell = FakeShell({"for table": TABLES, "find /proc": OWNERS, "grep -H": PROGRAMS})
    assert GuestNetwork(shell).unlisted_ports([r"tcp .*"]) == ["udp 127.0.0.1:323 kernel"]
    assert network.unlisted(PORTS, [r"tcp 127\.0\.0\.1:\d+ kubelet", r"udp .*"]) == ["tcp :::10250 kubelet"]


SERVICES = """\
ExecStart={ path=/sbin/agetty ; argv[]=/sbin/agetty --keep-baud 115200 - vt220 ; ignore_errors=yes ; pid=0 }
Id=serial-getty@ttyS0.service

ExecStart={ path=/sbin/agetty ; argv[]=/sbin/agetty --autologin root --noclear - linux ; ignore_errors=yes ; pid=0 }
Id=getty@tty1.service

ExecStart={ path=/usr/sbin/agetty ; argv[]=/usr/sbin/agetty -a root 115200 ; ignore_errors=no ; pid=0 }
Id=console.service
"""


def test_automatic_logins_are_found_in_units_and_in_processes() -> None:
    assert accounts.parse_services(SERVICES) == ["getty@tty1.service", "console.service"]
    processes = ["9", "1 0 - /sbin/init", "7 1 - /bin/login -f -- root", "8 1 - /bin/login -p -- root",
                 "9 1 - tail -f /var/log/login"]  # fmt: skip
    assert accounts.parse_processes(processes) == ["process 7 /bin/login -f -- root"]
    shell = FakeShell({"systemctl show": SERVICES, "for pid": "\n".join(processes)})
    assert len(Accounts(shell).automatic_logins()) == 3


def test_files_are_matched_by_patterns_of_the_shell() -> None:
    shell = FakeShell({"-name": "/etc/ssh/ssh_host_rsa_key\0"})
    assert Files(shell).matching(["ssh_host_*", "x"]) == ["/etc/ssh/ssh_host_rsa_key"]
    assert r"\( -name 'ssh_host_*' -o -name x \)" in shell.scripts[0]


def test_a_tree_is_described_line_by_line() -> None:
    shell = FakeShell({"printf": "./a f 644 0:0 \n", "sha256sum": "00  ./a\n"})
    assert Files(shell).digests("/usr") == ["./a f 644 0:0 ", "00  ./a"]


def test_settings_are_numbers_or_absent() -> None:
    shell = FakeShell({"/proc/sys/vm/swappiness": "0\nabsent\n"})
    assert Kernel(shell).sysctls(["vm.swappiness", "kernel.x"]) == {"vm.swappiness": 0, "kernel.x": "absent"}
    assert Kernel(FakeShell({":": ""})).sysctls([]) == {}


def test_the_uptime_is_in_seconds() -> None:
    assert Kernel(FakeShell({"uptime": "85.61 32.85\n"})).uptime() == 85.61


def test_rules_are_counted_without_comments() -> None:
    text = "# a comment\n\nKERNEL==\"a\", \\\n  NAME=\"b\"\n  # another\nSUBSYSTEM==\"c\"\n"
    assert len(system.parse_udev_rules(text)) == len(System(FakeShell({"rules.d": text})).udev_rules()) == 2


def test_a_restarted_service_is_named() -> None:
    shown = "NRestarts=0\nId=a.service\n\nNRestarts=3\nId=b.service\n"
    assert Units(FakeShell({"systemctl show": shown})).restarted() == ["b.service"]


def test_names_on_the_bus_come_first_in_their_lines() -> None:
    listed = "org.freedesktop.DBus 1 systemd root\norg.freedesktop.login1 7 x root\n"
    units = Units(FakeShell({"busctl": listed}))
    assert units.has_bus_name("org.freedesktop.login1")
    assert not units.has_bus_name("systemd") and not units.has_bus_name("org.freedesktop.login")


@pytest.mark.parametrize("ask", [
    lambda units: units.are_started(), lambda units: units.failed(), lambda units: units.restarted(),
    lambda units: units.named(".*"),
])  # fmt: skip
def test_a_system_without_systemd_has_no_units_to_judge(ask: Callable[[Units], object]) -> None:
    shell = FakeShell({"systemctl": (87, "")})
    with pytest.raises(NotJudged, match="is not started by systemd"):
        ask(Units(shell))
    assert shell.scripts[0].startswith("[ -d /run/systemd/system ] || exit 87\nsystemctl ")


@pytest.mark.parametrize(("state", "started"), [
    ("running\n", True), ((1, "degraded\n"), True), ((1, "starting\n"), False), ((1, ""), False),
])  # fmt: skip
def test_a_boot_ends_with_or_without_a_failure(state: str | tuple[int, str], started: bool) -> None:
    assert Units(FakeShell({"is-system-running": state})).are_started() is started


def test_only_changes_below_usr_count() -> None:
    shell = FakeShell({"ostree diff": "D    /etc\nM    /usr/bin/a b\nA    usr/x\nA    user/x\nD    /boot/y\n",
                       "ostree admin status": f"* lifsea {'c' * 64}.0\n"})  # fmt: skip
    assert Deployments(shell).changed_files() == ["M /usr/bin/a b", "A /usr/x"]


def test_a_container_that_writes_is_caught() -> None:
    shell = FakeShell({"ctr run": "/host\n/host/usr\ntried\n"})
    runtime = ContainerRuntime(shell, ClusterSection(), "ctr run sh -c")
    assert runtime.escaped_writes(["/", "/usr", "/boot"]) == ["/", "/usr"]


@pytest.mark.parametrize(("escape", "printed"), [("", "tried\n"), ("ctr run", ""), ("ctr run", (1, ""))])
def test_a_container_that_does_not_start_shows_nothing(escape: str, printed: str | tuple[int, str]) -> None:
    with pytest.raises(NotJudged):
        ContainerRuntime(FakeShell({"ctr run": printed}), ClusterSection(), escape).escaped_writes(["/usr"])


def test_a_package_is_recorded_in_the_directories_of_the_databases() -> None:
    found = packages.database_directories(["/usr/share/package-db/status"])
    assert {"/usr/share/package-db", "/var/lib/dpkg", "/var/lib/rpm"} <= set(found)


def test_a_machine_is_identified_by_digests() -> None:
    shell = FakeShell({"sha256sum": "aa  /etc/machine-id\nbb  /var/lib/systemd/random-seed\n"})
    assert System(shell, ["/etc/machine-id", "/etc/ssh/*"]).identity() == {
        "/etc/machine-id": "aa", "/var/lib/systemd/random-seed": "bb",
    }  # fmt: skip
