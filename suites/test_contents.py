"""The content of the image: what it must and must not contain."""

from __future__ import annotations

import pytest

from lifsea_testbed import CrossCheck, Machine, MachineFactory, Measure, Profile, claim, require

pytestmark = pytest.mark.shares_machine

_MEBIBYTE = 1 << 20


@claim("packages-about-200")
def test_there_are_about_200_packages(machine: Machine, cross_check: CrossCheck, profile: Profile,
                                      measure: Measure) -> None:  # fmt: skip
    """The package database has neither too many packages nor suspiciously few."""
    count = len(cross_check(machine).packages.installed())
    measure("packages", count, unit="packages", better="lower", exact=True)
    assert profile.packages.least <= count <= profile.packages.most


@claim("image-small")
def test_the_image_is_small(bench: MachineFactory, profile: Profile, measure: Measure) -> None:
    """The image file, compressed, is no larger than promised."""
    measure("image-size", bench.image.file_size, unit="B", better="lower", exact=True)
    most = require(profile.image.most, "image.most")
    assert bench.image.fits_into(int(most * _MEBIBYTE))


@claim("no-python")
def test_there_is_no_python(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """No program or library anywhere is a python, by its name or by its content; no standard library is there."""
    assert cross_check(machine).files.executables_named(profile.absent.python) == []
    assert cross_check(machine).files.executables_holding(profile.absent.python_marks) == []
    assert cross_check(machine).files.matching(profile.absent.python_files) == []


@claim("no-interpreters")
def test_there_is_no_other_interpreter(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """No program or library anywhere is a perl or ruby, by its name or by its content; no standard library is there."""
    assert cross_check(machine).files.executables_named(profile.absent.interpreters) == []
    assert cross_check(machine).files.executables_holding(profile.absent.interpreter_marks) == []
    assert cross_check(machine).files.matching(profile.absent.interpreter_files) == []


@claim("no-package-manager")
def test_there_is_no_package_manager(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """No program anywhere is a package manager, by its name or by its content, whatever its mode."""
    assert cross_check(machine).files.executables_named(profile.absent.package_managers) == []
    assert cross_check(machine).files.executables_holding(profile.absent.package_manager_marks) == []


@claim("no-package-manager")
def test_a_single_package_cannot_be_installed(machine: Machine) -> None:
    """No package database can be written, so no package could be recorded as installed."""
    assert machine.guest.packages.writable_databases() == []


@claim("no-debug-tools")
def test_there_is_no_debug_tool(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """No program anywhere debugs others or records network traffic, by its name or by its content."""
    assert cross_check(machine).files.executables_named(profile.absent.debug_tools) == []
    assert cross_check(machine).files.executables_holding(profile.absent.debug_tool_marks) == []


@claim("no-debug-tools")
def test_no_package_brings_a_debug_tool(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """No installed package is one of such tools."""
    assert cross_check(machine).packages.named(profile.absent.debug_packages) == []


@claim("shell-kept")
def test_a_posix_shell_is_kept(machine: Machine, cross_check: CrossCheck) -> None:
    """/bin/sh runs a script."""
    assert cross_check(machine).system.has_posix_shell()


@claim("shell-absent")
def test_there_is_no_posix_shell(machine: Machine, cross_check: CrossCheck, profile: Profile) -> None:
    """There is no /bin/sh, and no program anywhere is a shell, by its name or by its content."""
    assert not cross_check(machine).system.has_posix_shell()
    assert cross_check(machine).files.executables_named(profile.absent.shells) == []
    assert cross_check(machine).files.programs_holding(profile.absent.shell_marks) == []


@claim("no-logind")
def test_there_is_no_logind(machine: Machine, cross_check: CrossCheck) -> None:
    """Neither the unit nor the program exists, and no other program has its name on the system bus."""
    assert cross_check(machine).units.named(r"systemd-logind\.service") == []
    assert cross_check(machine).files.executables_named(["systemd-logind"]) == []
    assert not machine.guest.units.has_bus_name("org.freedesktop.login1")


@claim("no-resolved")
def test_there_is_no_resolved(machine: Machine, cross_check: CrossCheck) -> None:
    """Neither the unit nor the program exists, and no other program has its name on the system bus."""
    assert cross_check(machine).units.named(r"systemd-resolved\.service") == []
    assert cross_check(machine).files.executables_named(["systemd-resolved"]) == []
    assert not machine.guest.units.has_bus_name("org.freedesktop.resolve1")
