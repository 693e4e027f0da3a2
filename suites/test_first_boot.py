"""The first boot: disk, host name, time servers and user-data, configured from the metadata service alone."""

from __future__ import annotations

from lifsea_testbed import MACHINE_ID, Machine, Rebooted, claim

#: An ext4 file system keeps about 2 % of its partition for its own tables, and no partition starts its last MiB.
_OWN_TABLES = 0.95
_ALIGNMENT = 2 << 20


@claim("disk-grown")
def test_the_root_file_system_fills_the_disk(booted: Machine) -> None:
    """The root partition extends to the end of the disk, and its file system fills it."""
    booted.wait_until_ready()
    disk = booted.guest.disks.root()
    assert disk.unused <= _ALIGNMENT
    assert disk.filled >= _OWN_TABLES


@claim("hostname-set")
def test_the_host_name_is_the_instances(booted: Machine) -> None:
    """The kernel's host name is the one that the metadata service returned."""
    booted.wait_until_ready()
    assert booted.guest.system.host_name() == booted.instance.host_name


@claim("ntp-set")
def test_chrony_asks_the_clouds_time_servers(booted: Machine) -> None:
    """The time servers of the metadata service are among chronyd's sources."""
    booted.wait_until_ready()
    assert set(booted.instance.time_servers) <= set(booted.guest.clock.time_sources())


@claim("user-data-ran-once")
def test_user_data_runs_once_as_root(rebooted: Rebooted) -> None:
    """After a reboot the script has still run once, with user identifier 0."""
    assert rebooted.user_data_runs == ["0"]


@claim("user-data-ran-once")
def test_the_second_boot_asks_for_no_user_data(rebooted: Rebooted) -> None:
    """The script is not requested from the metadata service again, and the machine keeps its machine-id."""
    assert [path for path in rebooted.requested_again if path.endswith("/user-data")] == []
    assert rebooted.identities[0].get(MACHINE_ID) == rebooted.identities[1].get(MACHINE_ID)
