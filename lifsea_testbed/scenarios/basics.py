"""Basic scenarios: reboot, upgrade, rollback, comparison of two machines; each done once for several tests."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.disk.image import Image
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import AccessMethod, BootSection
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, KEPT_IN_HOME, KEPT_IN_VAR
from lifsea_testbed.upgrade.offer import Offer, offer_from_disk
from lifsea_testbed.upgrade.repository import Repository
from lifsea_testbed.upgrade.tools import UpgradeTool

#: The name of user-data in the paths of the metadata service.
_USER_DATA = "user-data"
#: How long what was planned for later has for its work once it is started (seconds of the guest's clock).
_SETTLING = 5.0
#: How long a script is waited for that sleeps (seconds of the guest's clock).
_PATIENCE = 300.0


@dataclass(frozen=True, kw_only=True)
class Rebooted:
    """A machine after a reboot: the files written before and kept (path → text), and the runs of its user-data.

    `requested_again` are the paths that the second boot requested of the metadata service, `identities` the machine's
    identifiers before and after.
    """

    machine: Machine
    written: dict[str, str | None]
    kept: dict[str, str | None]
    user_data_runs: list[str]
    requested_again: list[str]
    identities: tuple[dict[str, str], dict[str, str]]

    @property
    def user_data_requests(self) -> list[str]:
        """Those of `requested_again` that are for user-data, however the path is written."""
        return [path for path in self.requested_again if is_user_data(path)]


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Two machines of one image: their contents (packages, and a line a file) and their identifiers.

    `lacking` are files of their identity that one of them does not have.
    """

    machine: Machine
    contents: tuple[list[str], list[str]]
    identities: tuple[dict[str, str], dict[str, str]]
    lacking: list[str]


@dataclass(frozen=True, kw_only=True)
class Upgraded:
    """A machine after an upgrade by the OS's own tool: the images that ran before, was offered, and runs.

    They are named as the tool names them. `seconds` passed until the shell of the next image was open, without the time
    in which the journal was read for the records; `bytes_written` went to the disk before the reboot.
    """

    machine: Machine
    tool: UpgradeTool
    before: str
    offered: str
    running: str
    defaults_missing: list[str]
    kept: dict[str, str | None]
    seconds: float
    bytes_written: int


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """A machine after a rollback: the image that runs, and the text written and kept in /var by the next image.

    `etc` is the file in /etc that was written before the upgrade.
    """

    machine: Machine
    running: str
    written: str
    kept: str | None
    etc: str | None


def reboot(machine: Machine) -> Rebooted:
    """Writes to the paths that must persist, reboots once, and reads them."""
    machine.wait_until_ready()
    written = write(machine, (KEPT_IN_ETC, KEPT_IN_VAR, KEPT_IN_HOME))
    identity, requested = machine.guest.system.identity(), len(machine.requests)
    machine.reboot()
    machine.wait_until_ready()
    return Rebooted(
        machine=machine, written=written, kept=read(machine, written),
        user_data_runs=machine.guest.system.user_data_runs(),
        requested_again=[seen.path for seen in machine.requests[requested:]],
        identities=(identity, machine.guest.system.identity()),
    )  # fmt: skip


def compare(one: Machine, other: Machine) -> Twins:
    """Reads contents and identifiers of two machines of one image."""
    for machine in (one, other):
        machine.wait_until_ready()
    return Twins(machine=other, contents=(_content(one), _content(other)),
                 identities=(one.guest.system.identity(), other.guest.system.identity()),
                 lacking=[*one.guest.system.lacking_identity(), *other.guest.system.lacking_identity()])  # fmt: skip


def watch(machine: Machine, seconds: float) -> Machine:
    """Returns the machine once so many seconds of its own clock have passed since its boot finished.

    One without a shell is returned at once: what its disk holds does not change.
    """
    machine.wait_until_ready()
    if machine.access_method == AccessMethod.NONE:
        return machine
    finished = machine.guest.boot_times.manager().get("finished", machine.guest.kernel.uptime())
    _wait_for_uptime(machine, finished + seconds)
    return machine


def bring_forward(machine: Machine, boot: BootSection) -> Machine:
    """Returns the machine after a long uptime, and after the start of everything that it has planned for later.

    What was started then has had some seconds to do its work, and so have scripts that woke up in the next minutes. One
    without a shell is returned at once.
    """
    machine.wait_until_ready()
    if machine.access_method == AccessMethod.NONE:
        return machine
    _wait_for_uptime(machine, boot.late)
    started = machine.guest.pending.start(boot.not_started)
    now = machine.guest.kernel.uptime()
    wakings = [at for at in machine.guest.pending.wakings() if at <= now + _PATIENCE]
    if until := max([*wakings, *([now] if started else [])], default=0.0):
        _wait_for_uptime(machine, until + _SETTLING)
    return machine


def _wait_for_uptime(machine: Machine, uptime: float) -> None:
    machine.wait_until(lambda: machine.guest.kernel.uptime() >= uptime, f"the machine has been up for {uptime:.0f} s",
                       within=uptime)  # fmt: skip


def offer(machine: Machine, next_image: Image, directory: Path) -> Offer:
    """Offers the next image to the machine, from a mirror that serves `directory`."""
    machine.wait_until_ready()
    url = machine.network.serve_mirror(Repository(directory))
    return offer_from_disk(machine, directory, url, machine.attach_disk(next_image))


def upgrade(machine: Machine, tool: UpgradeTool, offered: Offer) -> Upgraded:
    """Upgrades by the tool to the offered image, reboots into it, and reads the state."""
    written = write(machine, (KEPT_IN_ETC, KEPT_IN_VAR))
    before = tool.running()
    started, recording, written_before = time.monotonic(), machine.recording_time, machine.boot.bytes_written
    tool.apply(offered)
    bytes_written = machine.boot.bytes_written - written_before
    machine.reboot()
    seconds = time.monotonic() - started - (machine.recording_time - recording)
    return Upgraded(
        machine=machine, tool=tool, before=before, offered=tool.name_of(offered), running=tool.running(),
        defaults_missing=machine.guest.deployments.missing_defaults(), kept=read(machine, written),
        seconds=seconds, bytes_written=bytes_written,
    )  # fmt: skip


def roll_back(upgraded: Upgraded) -> RolledBack:
    """Writes to /var as the next image, rolls back to the old one by the tool, and reads the state."""
    machine, text = upgraded.machine, "written by the next image"
    machine.guest.files.write(KEPT_IN_VAR, text)
    upgraded.tool.roll_back()
    machine.reboot()
    return RolledBack(machine=machine, running=upgraded.tool.running(), written=text,
                      kept=machine.guest.files.read(KEPT_IN_VAR),
                      etc=machine.guest.files.read(KEPT_IN_ETC))  # fmt: skip


def is_user_data(path: str) -> bool:
    """Returns whether a request's path leads to user-data, with or without a query, escapes and slashes."""
    plain = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
    return any(part == _USER_DATA for part in plain.lower().split("/"))


def write(machine: Machine, paths: tuple[str, ...]) -> dict[str, str | None]:
    """Writes its own path into each file; returns path → text."""
    for path in paths:
        machine.guest.files.write(path, path)
    return {path: path for path in paths}


def read(machine: Machine, paths: Iterable[str]) -> dict[str, str | None]:
    """Returns path → text; None for a file that is missing."""
    return {path: machine.guest.files.read(path) for path in paths}


def _content(machine: Machine) -> list[str]:
    return [*(f"{package.name} {package.version}" for package in machine.guest.packages.installed()),
            *machine.guest.files.digests("/usr"), *machine.guest.files.digests("/boot")]  # fmt: skip
