"""The whole image is upgraded and rolled back; what belongs to the machine is kept."""

from __future__ import annotations

from lifsea_testbed.claim import claim
from lifsea_testbed.image import Image
from lifsea_testbed.machine import Machine

_IN_ETC, _IN_VAR = "/etc/lifsea-testbed-kept", "/var/lifsea-testbed-kept"


@claim("image-whole")
def test_the_running_system_is_the_deployed_commit(machine: Machine) -> None:
    """ostree knows the booted deployment, it is the one that boots next, and the repository is sound."""
    assert machine.guest.deployments()[0] == machine.guest.booted_deployment()
    assert machine.guest.repository_damage() == []


@claim("upgrade")
def test_the_next_image_boots_with_etc_merged_and_var_kept(own_machine: Machine, next_image: Image) -> None:
    """The next image runs as a whole; what was written before is there."""
    own_machine.guest.write(_IN_ETC, "etc")
    own_machine.guest.write(_IN_VAR, "var")
    before = own_machine.guest.booted_deployment()
    commit = own_machine.guest.deploy_from_disk(own_machine.attach_disk(next_image))
    own_machine.reboot()
    assert own_machine.guest.booted_deployment().commit == commit != before.commit
    assert own_machine.guest.new_defaults_missing() == []
    assert (own_machine.guest.read(_IN_ETC), own_machine.guest.read(_IN_VAR)) == ("etc", "var")


@claim("rollback")
def test_the_old_image_boots_again(own_machine: Machine, next_image: Image) -> None:
    """After an upgrade and a rollback the old image runs, and /var is kept."""
    before = own_machine.guest.booted_deployment()
    own_machine.guest.deploy_from_disk(own_machine.attach_disk(next_image))
    own_machine.reboot()
    own_machine.guest.write(_IN_VAR, "written by the next image")
    own_machine.guest.roll_back()
    own_machine.reboot()
    assert own_machine.guest.booted_deployment().commit == before.commit
    assert own_machine.guest.read(_IN_VAR) == "written by the next image"
