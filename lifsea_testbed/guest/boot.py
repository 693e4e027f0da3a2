"""The boot as the guest recorded it: its clock, and when systemd started which unit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell

#: /proc/timer_list begins with the time of the read: CLOCK_MONOTONIC in nanoseconds (kernel/time/timer_list.c).
_CLOCK = """while read -r first second now rest; do [ "$first $second" = 'now at' ] && break; done </proc/timer_list
echo "$now"
"""
_MANAGER = ("UserspaceTimestampMonotonic", "UnitsLoadFinishTimestampMonotonic", "FinishTimestampMonotonic")
_UNIT = ("Id", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic", "CPUUsageNSec", "ControlGroup")
#: The kinds of units that are started and take time (systemd.unit(5)).
_KINDS = ("service", "socket", "mount", "target", "device", "swap")
_UNKNOWN = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class UnitTimes:
    """When a unit was started and when it was active (guest's monotonic clock), and its processor time; in seconds."""

    name: str
    started: float
    active: float
    processor: float


class BootTimes:
    """The times of the current boot, as the guest recorded them."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def monotonic(self) -> float:
        """Returns the guest's CLOCK_MONOTONIC in seconds, of a moment within the call.

        Raises:
            NotJudged: the kernel does not show it.
        """
        answer = self._shell.run(_CLOCK, check=False)
        if not answer.stdout.strip():
            raise NotJudged("the guest's kernel does not show its monotonic clock (/proc/timer_list)", Reason.IMAGE)
        with readable(answer, expected="nanoseconds"):
            return int(answer.stdout) / 1e9

    def manager(self) -> dict[str, float]:
        """Returns when systemd started (`userspace`), had loaded its units (`loaded`) and finished (`finished`)."""
        answer = self._shell.run(f"systemctl show --property={','.join(_MANAGER)}")
        times = _properties(answer.stdout)
        named = zip(("userspace", "loaded", "finished"), _MANAGER, strict=True)
        with readable(answer, expected="microseconds"):
            return {name: int(times[key]) / 1e6 for name, key in named if times.get(key, "0").strip("0")}

    def units(self) -> list[UnitTimes]:
        """Returns the times of every unit that was started in this boot."""
        kinds = " ".join(f"'*.{kind}'" for kind in _KINDS)
        answer = self._shell.run(f"systemctl show --property={','.join(_UNIT)} {kinds}")
        with readable(answer, expected="properties of units, times in microseconds"):
            return parse_units(answer.stdout)

    def default_target(self) -> str:
        """Returns the name of the target that the boot aims at."""
        return self._shell.run("systemctl get-default").stdout.strip()


def parse_units(shown: str) -> list[UnitTimes]:
    """Reads the output of `systemctl show`: units with an empty line between them."""
    found = [_properties(block) for block in re.split(r"\n\s*\n", shown)]
    return sorted((_times(unit) for unit in found if int(unit.get("InactiveExitTimestampMonotonic") or 0)),
                  key=lambda unit: (unit.started, unit.name))  # fmt: skip


def _times(unit: dict[str, str]) -> UnitTimes:
    started = int(unit["InactiveExitTimestampMonotonic"])
    used = unit.get("CPUUsageNSec", "")
    counted = int(used) if used.isdigit() and int(used) != _UNKNOWN else 0
    return UnitTimes(name=unit.get("Id", ""), started=started / 1e6, processor=counted / 1e9,
                     active=max(started, int(unit.get("ActiveEnterTimestampMonotonic") or 0)) / 1e6)  # fmt: skip


def _properties(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in split_lines(block) if "=" in line)
