"""Access: nobody can log in, over the network or at the console."""

from __future__ import annotations

import pytest

from lifsea_testbed import CrossCheck, Machine, Profile, claim, require

pytestmark = pytest.mark.shares_machine


@claim("no-sshd")
def test_there_is_no_ssh_server(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """No program is an ssh server by name, and no unit starts one."""
    assert cross_check(machine).files.executables_named(profile.absent.ssh) == []
    assert cross_check(machine).units.named(r"(ssh.*|.*(sshd|dropbear|tinyssh).*)\.(service|socket)") == []


@claim("no-sshd")
def test_nothing_speaks_ssh(watched: Machine) -> None:
    """No program that listens a while after the boot, on any port, greets as an ssh server does."""
    assert watched.guest.network.ssh_listeners() == []


@claim("no-sshd")
def test_no_program_is_an_ssh_server_under_another_name(machine: Machine, cross_check: CrossCheck,
                                                       profile: Profile) -> None:  # fmt: skip
    """No program, of any name and mode, contains a text that identifies an ssh server."""
    assert cross_check(machine).files.executables_holding(profile.absent.ssh_marks) == []


@claim("no-sshd")
def test_there_is_no_host_key(watched: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """No ssh host key was shipped, and none was made at boot, under its usual name or by its content."""
    assert cross_check(watched).files.matching(profile.absent.host_keys) == []
    assert cross_check(watched).files.holding(profile.absent.key_lines) == []


@claim("no-surprise-listeners")
def test_only_known_programs_take_what_comes(watched: Machine, profile: Profile) -> None:
    """Each open TCP or UDP port is on the profile's list, with the program that opened it."""
    allowed = require(profile.security.listeners, "security.listeners")
    assert watched.guest.network.unlisted_ports(allowed) == []


@claim("selinux-enforcing")
def test_selinux_is_in_the_promised_mode(watched: Machine, profile: Profile) -> None:
    """Kernel, its arguments, its policy, the configuration and the contexts of programs agree."""
    assert watched.guest.selinux.deviations(require(profile.security.selinux, "security.selinux")) == []


@claim("setuid-known")
def test_only_known_files_give_privileges(watched: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """Each file that is setuid or setgid, or has capabilities, is on the profile's list."""
    allowed = require(profile.security.setuid, "security.setuid")
    assert [file for file in cross_check(watched).files.setuid() if file not in allowed] == []


@claim("sysctls")
def test_the_kernel_is_set_as_promised(watched: Machine, profile: Profile) -> None:
    """Each setting of the profile has its value in the running kernel."""
    promised = require(profile.security.sysctls or None, "security.sysctls")
    assert watched.guest.kernel.sysctls(promised) == promised


@claim("no-default-password")
def test_no_account_has_a_password(watched: Machine, cross_check: CrossCheck) -> None:
    """Every password field, of accounts and groups, is one with which nobody can log in, and root has no double."""
    assert cross_check(watched).accounts.with_password() == []


@claim("no-default-password")
def test_no_account_is_opened_without_a_password(machine: Machine, cross_check: CrossCheck) -> None:
    """PAM lets nobody in who answered every question wrongly, at no service by which an account is entered."""
    assert cross_check(machine).accounts.without_password() == []


@claim("no-default-password")
def test_nobody_is_logged_in_without_asking(watched: Machine) -> None:
    """No getty logs an account in automatically, and no other program reads from a console."""
    assert watched.guest.accounts.automatic_logins() == []
