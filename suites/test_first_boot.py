"""The first boot: disk, host name, time servers and user-data, configured from the metadata service alone."""

from __future__ import annotations

from lifsea_testbed import MACHINE_ID, ClockCorrection, FirstBoot, Machine, Profile, Rebooted, claim

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


@claim("time-synchronised")
def test_a_wrong_clock_is_set(corrected_clock: ClockCorrection, profile: Profile) -> None:
    """A clock that was an hour off at power-on agrees with that of the time servers."""
    assert abs(corrected_clock.ahead) <= profile.clock.offset


@claim("time-synchronised")
def test_the_time_daemon_knows_how_right_the_clock_is(corrected_clock: ClockCorrection, profile: Profile) -> None:
    """chronyd is synchronised to a source, and estimates that the clock is hardly off."""
    assert corrected_clock.tracking is not None
    assert corrected_clock.tracking.is_synchronised
    assert abs(corrected_clock.tracking.offset) <= profile.clock.offset


@claim("metadata-late")
def test_a_late_metadata_service_is_waited_for(late_metadata: FirstBoot) -> None:
    """It gave no answer at first, then 503, and was slow: host name and user-data are right, and no unit failed."""
    assert late_metadata.host_name == late_metadata.machine.instance.host_name
    assert late_metadata.user_data_runs == ["0"]
    assert late_metadata.failed_units == []


@claim("metadata-hardened")
def test_a_hardened_metadata_service_is_asked_with_a_token(hardened_metadata: FirstBoot) -> None:
    """Host name and user-data are right, and no unit failed."""
    assert hardened_metadata.host_name == hardened_metadata.machine.instance.host_name
    assert hardened_metadata.user_data_runs == ["0"]
    assert hardened_metadata.failed_units == []


@claim("user-data-ran-once")
def test_user_data_runs_once_as_root(rebooted: Rebooted) -> None:
    """After a reboot the script has still run once, with user identifier 0."""
    assert rebooted.user_data_runs == ["0"]


@claim("user-data-ran-once")
def test_the_second_boot_asks_for_no_user_data(rebooted: Rebooted) -> None:
    """The script is not requested from the metadata service again, and the machine keeps its machine-id."""
    assert rebooted.user_data_requests == []
    assert rebooted.identities[0].get(MACHINE_ID) == rebooted.identities[1].get(MACHINE_ID)
