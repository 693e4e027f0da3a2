"""Scenarios: what is done to a machine once, so that several tests can judge what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.disk.image import Image
from lifsea_testbed.guest.ostree import Deployment
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, KEPT_IN_HOME, KEPT_IN_VAR


@dataclass(frozen=True, kw_only=True)
class Rebooted:
    """A machine after a reboot: what it kept of what was written (path → text), and the runs of its user-data.

    `asked_again` are the paths of the metadata service that the second boot asked for, `identities` what told the
    machine from others before and after.
    """

    machine: Machine
    written: dict[str, str | None]
    kept: dict[str, str | None]
    user_data_runs: list[str]
    asked_again: list[str]
    identities: tuple[dict[str, str], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Two machines of one image: what they hold (packages and a line a file), and what tells each from others."""

    machine: Machine
    contents: tuple[list[str], list[str]]
    identities: tuple[dict[str, str], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Upgraded:
    """A machine that was told to boot another image: which ran before, which it was to be, and which runs.

    `seconds` passed until the shell of the next image was open, `bytes_written` to the disk before the reboot.
    """

    machine: Machine
    before: Deployment
    commit: str
    running: Deployment
    defaults_missing: list[str]
    kept: dict[str, str | None]
    seconds: float
    bytes_written: int


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """A machine that was told to boot its old image again: which runs, and what is left of the next one's writes.

    `etc` is what /etc has of what was written before the upgrade.
    """

    machine: Machine
    running: Deployment
    written: str
    kept: str | None
    etc: str | None


def reboot(machine: Machine) -> Rebooted:
    """Writes to the places that are kept, reboots once, and looks."""
    machine.wait_until_ready()
    written = write(machine, (KEPT_IN_ETC, KEPT_IN_VAR, KEPT_IN_HOME))
    identity, asked = machine.guest.system.identity(), len(machine.requests)
    machine.reboot()
    machine.wait_until_ready()
    return Rebooted(
        machine=machine, written=written, kept=read(machine, written),
        user_data_runs=machine.guest.system.user_data_runs(),
        asked_again=[seen.path for seen in machine.requests[asked:]],
        identities=(identity, machine.guest.system.identity()),
    )  # fmt: skip


def compare(one: Machine, other: Machine) -> Twins:
    """Looks at two machines of one image."""
    for machine in (one, other):
        machine.wait_until_ready()
    return Twins(machine=other, contents=(_content(one), _content(other)),
                 identities=(one.guest.system.identity(), other.guest.system.identity()))  # fmt: skip


def watch(machine: Machine, uptime: float) -> Machine:
    """Returns the machine once it has been up for so many seconds: what a boot does late is done by then."""
    machine.wait_until_ready()
    machine.wait_until(lambda: machine.guest.kernel.uptime() >= uptime, "the machine has been up for a while",
                       within=uptime)  # fmt: skip
    return machine


def upgrade(machine: Machine, next_image: Image) -> Upgraded:
    """Deploys the next image, reboots into it, and looks."""
    written = write(machine, (KEPT_IN_ETC, KEPT_IN_VAR))
    before = machine.guest.deployments.booted()
    source = machine.attach_disk(next_image)
    started, written_before = time.monotonic(), machine.boot.written
    commit = machine.guest.deployments.deploy_from_disk(source)
    bytes_written = machine.boot.written - written_before
    machine.reboot()
    seconds = time.monotonic() - started
    return Upgraded(
        machine=machine, before=before, commit=commit, running=machine.guest.deployments.booted(),
        defaults_missing=machine.guest.deployments.missing_defaults(), kept=read(machine, written),
        seconds=seconds, bytes_written=bytes_written,
    )  # fmt: skip


def roll_back(upgraded: Upgraded) -> RolledBack:
    """Writes to /var as the next image, goes back to the old one, and looks."""
    machine, text = upgraded.machine, "written by the next image"
    machine.guest.files.write(KEPT_IN_VAR, text)
    machine.guest.deployments.roll_back()
    machine.reboot()
    return RolledBack(machine=machine, running=machine.guest.deployments.booted(), written=text,
                      kept=machine.guest.files.read(KEPT_IN_VAR),
                      etc=machine.guest.files.read(KEPT_IN_ETC))  # fmt: skip


def write(machine: Machine, paths: tuple[str, ...]) -> dict[str, str | None]:
    """Writes into each file its own path, and returns what they hold then."""
    for path in paths:
        machine.guest.files.write(path, path)
    return {path: path for path in paths}


def read(machine: Machine, paths: Iterable[str]) -> dict[str, str | None]:
    """Returns what each file holds; nothing for one that is not there."""
    return {path: machine.guest.files.read(path) for path in paths}


def _content(machine: Machine) -> list[str]:
    return [*(f"{package.name} {package.version}" for package in machine.guest.packages.installed()),
            *machine.guest.files.digests("/usr")]  # fmt: skip
