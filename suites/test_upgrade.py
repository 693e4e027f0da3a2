"""The whole image is upgraded and rolled back; what belongs to the machine is kept."""

from __future__ import annotations

from lifsea_testbed.claim import claim
from lifsea_testbed.machine import Machine
from lifsea_testbed.scenario import IN_ETC, IN_VAR, RolledBack, Upgraded


@claim("image-whole")
def test_the_running_system_is_the_deployed_commit(machine: Machine) -> None:
    """ostree knows the booted deployment, it is the one that boots next, and the repository is sound."""
    assert machine.guest.deployments()[0] == machine.guest.booted_deployment()
    assert machine.guest.repository_damage() == []


@claim("upgrade")
def test_the_next_image_boots_with_etc_merged_and_var_kept(upgraded: Upgraded) -> None:
    """The next image runs as a whole, with its own new defaults; what was written before is there."""
    assert upgraded.running.commit == upgraded.commit != upgraded.before.commit
    assert upgraded.defaults_missing == []
    assert upgraded.kept == {IN_ETC: IN_ETC, IN_VAR: IN_VAR}


@claim("rollback")
def test_the_old_image_boots_again(upgraded: Upgraded, rolled_back: RolledBack) -> None:
    """After an upgrade and a rollback the old image runs, and /var is kept."""
    assert rolled_back.running.commit == upgraded.before.commit
    assert rolled_back.kept == rolled_back.written
