"""The units of systemd: their states, their files, the names on the system bus."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lifsea_testbed.guest.answers import first_words, readable
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell


class Units:
    """All units of systemd together; a single service is controlled by `services.Services`."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def state(self) -> str:
        """Returns the state of the whole system: starting, running, degraded, … (systemctl(1), is-system-running)."""
        return self._shell.run("systemctl is-system-running", check=False).stdout.strip()

    def failed(self) -> list[str]:
        """Returns the names of the failed units."""
        return first_words(self._shell.run("systemctl list-units --failed --plain --no-legend --no-pager"))

    def restarted(self) -> list[str]:
        """Returns the services that systemd had to start again, sorted."""
        answer = self._shell.run("systemctl show --property=Id,NRestarts '*.service'")
        found = (dict(line.split("=", 1) for line in split_lines(block) if "=" in line)
                 for block in answer.stdout.split("\n\n"))  # fmt: skip
        with readable(answer, expected="Id and NRestarts of each service"):
            return sorted(unit["Id"] for unit in found if unit.get("NRestarts", "0") != "0")

    def named(self, pattern: str) -> list[str]:
        """Returns the unit files whose whole name matches the regular expression."""
        return named(first_words(self._shell.run("systemctl list-unit-files --plain --no-legend --no-pager")), pattern)

    def has_bus_name(self, name: str) -> bool:
        """Returns whether a program has that name on the system bus, or would be started on demand for it."""
        listed = self._shell.run("busctl list --acquired --activatable --no-legend --no-pager")
        return name in first_words(listed)


def named(units: Iterable[str], pattern: str) -> list[str]:
    """Returns the units whose whole name matches the regular expression."""
    return [unit for unit in units if re.fullmatch(pattern, unit)]
