"""What systemd says of its units."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lifsea_testbed.support.protocols import Shell


def state(shell: Shell) -> str:
    """Returns the state of the whole system: starting, running, degraded, … (systemctl(1), is-system-running)."""
    return shell.run("systemctl is-system-running", check=False).stdout.strip()


def failed(shell: Shell) -> list[str]:
    """Returns the names of the failed units."""
    listed = shell.run("systemctl list-units --failed --plain --no-legend --no-pager")
    return [line.split()[0] for line in listed.lines]


def installed(shell: Shell, pattern: str) -> list[str]:
    """Returns the unit files whose whole name matches the regular expression."""
    listed = shell.run("systemctl list-unit-files --plain --no-legend --no-pager")
    return named([line.split()[0] for line in listed.lines], pattern)


def named(units: Iterable[str], pattern: str) -> list[str]:
    """Returns the units whose whole name matches the regular expression."""
    return [unit for unit in units if re.fullmatch(pattern, unit)]


def restarted(shell: Shell) -> list[str]:
    """Returns the services that systemd had to start again."""
    shown = shell.run("systemctl show --property=Id,NRestarts '*.service'").stdout
    found = (dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n"))
    return sorted(unit["Id"] for unit in found if unit.get("NRestarts", "0") != "0")


def bus_names(shell: Shell) -> list[str]:
    """Returns the well-known names on the system bus, those that would be started on demand included."""
    listed = shell.run("busctl list --acquired --activatable --no-legend --no-pager")
    return [line.split()[0] for line in listed.lines]
