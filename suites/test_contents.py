"""What the image holds, and what it must not hold."""

from __future__ import annotations

from lifsea_testbed.claim import claim
from lifsea_testbed.machine import Machine
from lifsea_testbed.perf.measure import Measure
from lifsea_testbed.profile import Profile


@claim("packages-about-200")
def test_there_are_about_200_packages(machine: Machine, profile: Profile, measure: Measure) -> None:
    """The package database counts neither too many packages nor suspiciously few."""
    count = len(machine.guest.packages())
    measure("packages", count, unit="packages", better="lower", exact=True)
    assert profile.packages.least <= count <= profile.packages.most


@claim("no-python")
def test_there_is_no_python(machine: Machine, profile: Profile) -> None:
    """No executable anywhere is a python interpreter by name."""
    assert machine.guest.executables_named(profile.absent.python) == []


@claim("no-interpreters")
def test_there_is_no_other_interpreter(machine: Machine, profile: Profile) -> None:
    """No executable anywhere is a perl or ruby interpreter by name."""
    assert machine.guest.executables_named(profile.absent.interpreters) == []


@claim("no-package-manager")
def test_there_is_no_package_manager(machine: Machine, profile: Profile) -> None:
    """No executable anywhere is a package manager by name."""
    assert machine.guest.executables_named(profile.absent.package_managers) == []


@claim("shell-kept")
def test_a_posix_shell_is_kept(machine: Machine) -> None:
    """/bin/sh runs a script."""
    assert machine.guest.has_posix_shell


@claim("no-logind")
def test_there_is_no_logind(machine: Machine) -> None:
    """Neither the unit nor the program is there."""
    assert machine.guest.units_named(r"systemd-logind\.service") == []
    assert machine.guest.executables_named(["systemd-logind"]) == []


@claim("no-resolved")
def test_there_is_no_resolved(machine: Machine) -> None:
    """Neither the unit nor the program is there."""
    assert machine.guest.units_named(r"systemd-resolved\.service") == []
    assert machine.guest.executables_named(["systemd-resolved"]) == []
