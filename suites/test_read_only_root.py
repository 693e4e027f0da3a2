"""The root file system is read-only; exactly the promised paths are writable."""

from __future__ import annotations

import pytest

from lifsea_testbed import CrossCheck, Machine, Profile, Rebooted, claim


@claim("root-read-only")
def test_only_the_promised_paths_are_writable(watched: Machine, profile: Profile) -> None:
    """A census of every directory and file on every mount, a while after the boot, finds exactly the promised paths."""
    assert watched.guest.files.writable_paths() == sorted(profile.paths.writable)


@claim("root-read-only")
def test_a_write_outside_is_refused(watched: Machine, profile: Profile) -> None:
    """Root cannot make a file in any directory outside of the promised paths; those of the image are there."""
    assert watched.guest.files.missing(profile.paths.image) == []
    assert watched.guest.files.accepted_writes_outside(profile.paths.writable) == []


@claim("root-read-only")
def test_no_other_file_system_is_writable(watched: Machine, profile: Profile) -> None:
    """By the kernel's table of mounts, each mount that can be written to lies inside a promised path."""
    assert watched.guest.disks.writable_mounts_outside(profile.paths.writable) == []


@claim("escaped-container-cannot-write")
def test_a_privileged_container_cannot_write_to_the_image(machine: Machine, profile: Profile) -> None:
    """With the host's root mounted for writing, it still cannot make a file in the directories of the image."""
    machine.wait_until(machine.guest.runtime.containerd_version, "containerd answers", within=profile.boot.ready_within)
    assert machine.guest.runtime.escaped_writes(profile.paths.image) == []


@claim("paths-as-promised")
@pytest.mark.shares_machine
def test_the_changing_paths_lead_into_var(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """Each of them resolves to a directory below /var."""
    targets = {path: cross_check(machine).files.link_target(path) for path in profile.paths.into_var}
    assert {path: target for path, target in targets.items() if not target.startswith("/var/")} == {}


@claim("paths-as-promised")
@pytest.mark.shares_machine
def test_the_passing_paths_lie_in_memory(machine: Machine, profile: Profile) -> None:
    """/run and /tmp are tmpfs."""
    found = {path: machine.guest.files.file_system_of(path) for path in profile.paths.memory}
    assert found == dict.fromkeys(profile.paths.memory, "tmpfs")


@claim("etc-var-writable-and-kept")
def test_etc_and_var_are_kept_across_a_reboot(rebooted: Rebooted) -> None:
    """Files that root writes there are there after a reboot."""
    assert rebooted.kept == rebooted.written
