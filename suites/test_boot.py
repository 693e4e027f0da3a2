"""The image boots quickly, without an initramfs and without errors."""

from __future__ import annotations

import pytest

from lifsea_testbed import ColdBoots, CrossCheck, Machine, Measure, Profile, claim, require


@claim("boots-to-ready")
def test_every_unit_is_up(booted: Machine, measure: Measure) -> None:
    """systemd finishes the boot, and no unit has failed."""
    booted.wait_until_ready()
    measure("memory-after-boot", booted.guest.kernel.memory_used(), unit="B", better="lower")
    assert booted.guest.units.failed() == []


@claim("boot-two-seconds")
def test_first_boot_is_as_quick_as_promised(cold_boots: ColdBoots, profile: Profile, measure: Measure) -> None:
    """From power-on until user-data runs, the first boot is as quick as promised; emulated, by its instructions."""
    cold_boots.report(measure)
    checked = cold_boots.held_to(profile.boot)
    assert checked.kept, str(checked)


@claim("no-initramfs")
def test_nothing_loads_an_initramfs(booted: Machine, cross_check: CrossCheck) -> None:
    """No boot entry names an initramfs, and the kernel unpacked none."""
    assert cross_check(booted).kernel.initramfs_signs() == []


@claim("drivers-built-in")
def test_no_virtio_or_ext4_module_is_loaded(watched: Machine) -> None:
    """The drivers that an ECS instance needs to boot are built into the kernel."""
    assert watched.guest.kernel.loaded_modules(["virtio", "net_failover", "ext4", "jbd2"]) == []


@claim("drivers-built-in")
@pytest.mark.shares_machine
def test_no_such_module_is_on_the_disk(machine: Machine, cross_check: CrossCheck) -> None:
    """Nor can they be loaded later: no file is such a module, loaded or not."""
    modules = ("virtio.ko*", "virtio_ring.ko*", "virtio_pci*.ko*", "virtio_blk.ko*", "virtio_net.ko*",
               "net_failover.ko*", "ext4.ko*", "jbd2.ko*")  # fmt: skip
    assert cross_check(machine).files.matching(modules) == []


@claim("console-clean")
def test_the_kernel_reports_no_error(watched: Machine) -> None:
    """The kernel reported no error or worse, except messages that the profile allows."""
    assert watched.guest.kernel.errors() == []


@claim("console-clean")
def test_nothing_fails_after_the_boot(watched: Machine) -> None:
    """A while later no unit has failed or was restarted, and no program crashed or was denied an access."""
    assert watched.guest.units.failed() == []
    assert watched.guest.units.restarted() == []
    assert watched.guest.kernel.crashes_and_denials() == []


@claim("few-units")
@pytest.mark.shares_machine
def test_there_are_few_units(machine: Machine, cross_check: CrossCheck, profile: Profile, measure: Measure) -> None:
    """There are no more unit files than the profile's budget."""
    count = len(cross_check(machine).units.named(r".*"))
    measure("units", count, unit="units", better="lower", exact=True)
    assert count <= require(profile.budget.units, "budget.units")


@claim("few-udev-rules")
@pytest.mark.shares_machine
def test_there_are_few_udev_rules(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """udev's files have no more rules than the profile's budget."""
    assert len(cross_check(machine).system.udev_rules()) <= require(profile.budget.udev_rules, "budget.udev_rules")
