"""The image is upgraded and rolled back as a whole; the machine's own files are kept."""

from __future__ import annotations

import pytest

from lifsea_testbed import (
    KEPT_IN_ETC,
    KEPT_IN_VAR,
    MACHINE_ID,
    CrossCheck,
    Machine,
    Measure,
    RolledBack,
    Twins,
    Upgraded,
    claim,
)


@claim("image-whole")
def test_the_running_system_is_the_deployed_commit(machine: Machine) -> None:
    """ostree knows the booted deployment, it is the one that boots next, and the repository is sound."""
    assert machine.guest.deployments.all()[0] == machine.guest.deployments.booted()
    assert machine.guest.deployments.repository_damage() == []


@claim("image-whole")
def test_usr_is_the_commits_byte_for_byte(machine: Machine, cross_check: CrossCheck) -> None:
    """Below /usr no file was added, none is missing, and none differs in a byte or a bit of its mode."""
    assert cross_check(machine).deployments.changed_files() == []


@claim("image-whole")
@pytest.mark.shares_machine
def test_the_whole_image_has_one_version(machine: Machine) -> None:
    """The version in os-release is that of the booted commit."""
    version = machine.guest.deployments.booted().version
    assert version and version in machine.guest.system.os_release().values()


@claim("nodes-identical")
def test_two_machines_hold_the_same(twins: Twins) -> None:
    """Their packages, and every file below /usr and /boot, are the same."""
    assert sorted(set(twins.contents[0]) ^ set(twins.contents[1])) == []


@claim("nodes-identical")
def test_two_machines_can_be_told_apart(twins: Twins) -> None:
    """Each has a machine-id and the other files of its identity, and none of one is the other's."""
    one, other = twins.identities
    assert MACHINE_ID in one
    assert twins.lacking == []
    assert [path for path, digest in one.items() if digest == other.get(path)] == []


@claim("upgrade")
def test_the_next_image_boots_with_etc_merged_and_var_kept(upgraded: Upgraded, measure: Measure) -> None:
    """The next image runs as a whole, with its new defaults in /etc; files that were written before are there."""
    measure("upgrade", upgraded.seconds, unit="s", better="lower",
            definition="From the start of the OS's own tool until a shell of the next image answers.")
    measure("upgrade-written", upgraded.bytes_written, unit="B", better="lower",
            definition="What the tool wrote to the system disk before the reboot.")
    assert upgraded.running == upgraded.offered != upgraded.before
    assert upgraded.defaults_missing == []
    assert upgraded.kept == {KEPT_IN_ETC: KEPT_IN_ETC, KEPT_IN_VAR: KEPT_IN_VAR}


@claim("rollback")
def test_the_old_image_boots_again(upgraded: Upgraded, rolled_back: RolledBack) -> None:
    """After an upgrade and a rollback the old image runs, and /var is kept."""
    assert rolled_back.running == upgraded.before
    assert rolled_back.kept == rolled_back.written


@claim("etc-var-writable-and-kept")
def test_etc_and_var_are_kept_across_upgrade_and_rollback(upgraded: Upgraded, rolled_back: RolledBack) -> None:
    """Files that root wrote there are there in the next image, and in the old one after the rollback."""
    assert upgraded.kept == {KEPT_IN_ETC: KEPT_IN_ETC, KEPT_IN_VAR: KEPT_IN_VAR}
    assert (rolled_back.etc, rolled_back.kept) == (KEPT_IN_ETC, rolled_back.written)
