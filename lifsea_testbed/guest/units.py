"""The units of systemd: their states, their files, the names on the system bus."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lifsea_testbed.errors import CommandFailed, NotJudged, Reason
from lifsea_testbed.guest.answers import first_words, readable
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import CommandResult, Shell

#: The status of a question where systemd is not the init (sd_booted(3)): that of no command of its own.
_NO_SYSTEMD = 87
_REQUIRE_SYSTEMD = f"[ -d /run/systemd/system ] || exit {_NO_SYSTEMD}"
#: The states of a system that is still booting (systemctl(1), is-system-running); none where its manager is not up yet.
_STARTING = ("initializing", "starting", "")


class Units:
    """All units of systemd together; a single service is controlled by `services.Services`.

    Of a system without systemd every question raises NotJudged.
    """

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def are_started(self) -> bool:
        """Returns whether systemd has finished the boot, with or without a failure."""
        return self._asked("systemctl is-system-running", check=False).stdout.strip() not in _STARTING

    def failed(self) -> list[str]:
        """Returns the names of the failed units."""
        return first_words(self._asked("systemctl list-units --failed --plain --no-legend --no-pager"))

    def restarted(self) -> list[str]:
        """Returns the services that systemd had to start again, sorted."""
        answer = self._asked("systemctl show --property=Id,NRestarts '*.service'")
        found = (dict(line.split("=", 1) for line in split_lines(block) if "=" in line)
                 for block in answer.stdout.split("\n\n"))  # fmt: skip
        with readable(answer, expected="Id and NRestarts of each service"):
            return sorted(unit["Id"] for unit in found if unit.get("NRestarts", "0") != "0")

    def named(self, pattern: str) -> list[str]:
        """Returns the unit files whose whole name matches the regular expression."""
        return named(first_words(self._asked("systemctl list-unit-files --plain --no-legend --no-pager")), pattern)

    def has_bus_name(self, name: str) -> bool:
        """Returns whether a program has that name on the system bus, or would be started on demand for it."""
        listed = self._shell.run("busctl list --acquired --activatable --no-legend --no-pager")
        return name in first_words(listed)

    def _asked(self, command: str, *, check: bool = True) -> CommandResult:
        answer = self._shell.run(f"{_REQUIRE_SYSTEMD}\n{command}", check=False)
        if answer.exit_status == _NO_SYSTEMD:
            raise NotJudged("the image's system is not started by systemd, which alone has units", Reason.IMAGE)
        if check and not answer.ok:
            raise CommandFailed(f"status {answer.exit_status} from: {command}", evidence=answer.stderr[-2000:])
        return answer


def named(units: Iterable[str], pattern: str) -> list[str]:
    """Returns the units whose whole name matches the regular expression."""
    return [unit for unit in units if re.fullmatch(pattern, unit)]
