"""The image boots, quickly, without an initramfs, and without a complaint."""

from __future__ import annotations

import pytest

from lifsea_testbed.boottime.campaign import ColdBoots
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.perf.metric import Measure
from lifsea_testbed.plugin.items import claim
from lifsea_testbed.profiles.profile import Profile, require


@claim("boots-to-ready")
def test_every_unit_is_up(booted: Machine, measure: Measure) -> None:
    """The boot comes to its end, and no unit has failed."""
    booted.wait_until_ready()
    measure("memory-after-boot", booted.guest.kernel.memory_used(), unit="B", better="lower")
    assert booted.guest.units.failed() == []


@claim("boot-two-seconds")
def test_first_boot_is_as_quick_as_promised(cold_boots: ColdBoots, profile: Profile, measure: Measure) -> None:
    """From power-on until user-data runs, the first boot is as quick as advertised; emulated, by what it executes."""
    cold_boots.report(measure)
    checked = cold_boots.held_to(profile.boot)
    assert checked.kept, str(checked)


@claim("no-initramfs")
def test_nothing_loads_an_initramfs(booted: Machine) -> None:
    """No boot entry names an initramfs, and the kernel unpacked none."""
    assert booted.guest.kernel.initramfs_signs() == []


@claim("drivers-built-in")
@pytest.mark.shares_machine
def test_no_virtio_or_ext4_module_is_loaded(machine: Machine) -> None:
    """What an ECS instance needs to boot is part of the kernel."""
    drivers = ("virtio", "net_failover", "ext4", "jbd2")
    assert [module for module in machine.guest.kernel.loaded_modules() if module.startswith(drivers)] == []


@claim("console-clean")
def test_the_kernel_reports_no_error(booted: Machine) -> None:
    """No kernel message of priority error or graver, but those that the profile allows."""
    booted.wait_until_ready()
    assert booted.guest.kernel.errors() == []


@claim("console-clean")
def test_nothing_fails_after_the_boot(watched: Machine) -> None:
    """A while later no unit has failed, none had to be started again, no program crashed or was denied something."""
    assert watched.guest.units.failed() == []
    assert watched.guest.units.restarted() == []
    assert watched.guest.kernel.crashes_and_denials() == []


@claim("few-units")
@pytest.mark.shares_machine
def test_there_are_few_units(machine: Machine, profile: Profile, measure: Measure) -> None:
    """systemd knows no more unit files than the profile's budget."""
    count = len(machine.guest.units.named(r".*"))
    measure("units", count, unit="units", better="lower", exact=True)
    assert count <= require(profile.budget.units, "budget.units")


@claim("few-udev-rules")
@pytest.mark.shares_machine
def test_there_are_few_udev_rules(machine: Machine, profile: Profile) -> None:
    """udev's files have no more rules than the profile's budget."""
    assert len(machine.guest.system.udev_rules()) <= require(profile.budget.udev_rules, "budget.udev_rules")
