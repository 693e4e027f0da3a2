"""Who can get in: nobody, over the network or at the console."""

from __future__ import annotations

from lifsea_testbed.claim import claim
from lifsea_testbed.machine import Machine
from lifsea_testbed.profile import Profile


@claim("no-sshd")
def test_there_is_no_ssh_server(machine: Machine, profile: Profile) -> None:
    """No executable is an ssh server by name, and no unit starts one."""
    assert machine.guest.executables_named(profile.absent.ssh) == []
    assert machine.guest.units_named(r"(ssh|sshd|dropbear|tinyssh).*\.(service|socket)") == []


@claim("no-sshd")
def test_nothing_speaks_ssh(machine: Machine) -> None:
    """Whatever listens, on any port, does not greet as an ssh server does."""
    machine.wait_until_ready()
    assert machine.guest.ssh_speakers() == []


@claim("no-default-password")
def test_no_account_has_a_password(machine: Machine) -> None:
    """Every password field keeps everybody out."""
    assert machine.guest.accounts_with_password() == []


@claim("no-default-password")
def test_nobody_is_logged_in_without_asking(machine: Machine) -> None:
    """No getty logs an account in by itself."""
    assert machine.guest.automatic_logins() == []
