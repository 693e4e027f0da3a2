"""What waits to be started on a running system: units of timers and paths, jobs of cron and at."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from lifsea_testbed.guest.answers import readable
from lifsea_testbed.support.protocols import Shell

#: systemd.timer(5) and systemd.path(5): each starts the unit that its property Unit names.
_UNITS = "systemctl show --property=Id,Unit,ActiveState '*.timer' '*.path'"
#: A started unit may take so long until it is up (seconds on real hardware); one that takes longer goes on.
_STARTING = 30.0
#: The table of crontab(5), whose lines have a user, and the crontabs of users, whose lines have none, each line after
#: the name of its file; only where a cron daemon runs.
_CRONTABS = r"""
grep -q -s -x -E 'crond?|anacron|fcron' /proc/[0-9]*/comm || exit 0
for file in /etc/crontab /etc/cron.d/*; do [ -f "$file" ] && sed 's/^/system /' "$file"; done
for file in /var/spool/cron/* /var/spool/cron/crontabs/*; do [ -f "$file" ] && sed 's/^/user /' "$file"; done
exit 0
"""
#: The scripts of at(1), where its daemon runs.
_AT = r"""
grep -q -s -x atd /proc/[0-9]*/comm || exit 0
find /var/spool/at /var/spool/cron/atjobs /var/spool/atjobs -maxdepth 1 -type f -perm -u+x 2>/dev/null
exit 0
"""
#: The start (ticks after the boot: proc(5), stat, field 22) and the arguments of each process of sleep(1).
_SLEEPS = r"""
for process in /proc/[0-9]*; do
    [ "$(cat "$process/comm")" = sleep ] || continue
    echo "$(cut -d ' ' -f 22 "$process/stat") $(tr '\0' ' ' <"$process/cmdline")"
done 2>/dev/null
exit 0
"""
#: The ticks of a second in /proc, on every machine of this architecture (USER_HZ); the units of sleep(1).
_TICKS = 100
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_JOB = re.compile(r"(?:@\w+|(?:\S+\s+){5})\s*(.+)")
_SETTING = re.compile(r"\w+\s*=")
#: In a crontab an unescaped % ends the command, and what follows is its input (crontab(5)).
_PERCENT = re.compile(r"(?<!\\)%.*")


class PendingWork:
    """The work that a running system has planned for later, or for the day that a file appears."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def units(self) -> list[str]:
        """Returns the units that an active timer or path unit will start, sorted."""
        return parse_pending(self._shell.run(_UNITS, check=False).stdout)

    def jobs(self) -> list[str]:
        """Returns the commands that a running cron or at daemon will run."""
        scripts = self._shell.run(_AT, check=False).lines
        return [*parse_crontabs(self._shell.run(_CRONTABS, check=False).lines),
                *(f"sh {shlex.quote(script)}" for script in scripts)]  # fmt: skip

    def wakings(self) -> list[float]:
        """Returns the uptimes (s) at which scripts go on that wait in sleep(1) now, sorted; not of an endless sleep."""
        answer = self._shell.run(_SLEEPS, check=False)
        with readable(answer, expected="an uptime and the words of sleep(1) on each line"):
            return parse_sleeps(answer.lines)

    def start(self, spared: Iterable[str] = ()) -> list[str]:
        """Starts all of it now, and returns what it started; units and jobs that match are spared.

        `spared` are regular expressions over the whole name of a unit, or command of a job.
        """
        patterns = [re.compile(pattern) for pattern in spared]
        units, jobs = ([one for one in found if not any(pattern.fullmatch(one) for pattern in patterns)]
                       for found in (self.units(), self.jobs()))  # fmt: skip
        for job in jobs:
            self._shell.run(f"setsid sh -c {shlex.quote(job)} </dev/null >/dev/null 2>&1 &", check=False)
        if units:
            self._shell.run(f"timeout {_STARTING:.0f} systemctl start {shlex.join(units)}", check=False,
                            within=2 * _STARTING)  # fmt: skip
        return [*units, *jobs]


def parse_pending(text: str) -> list[str]:
    """Reads `systemctl show`: paragraphs of properties; returns the units of those that are active, sorted."""
    shown = (dict(line.partition("=")[::2] for line in block.split("\n")) for block in re.split(r"\n\s*\n", text))
    return sorted({unit["Unit"] for unit in shown if unit.get("ActiveState") == "active" and unit.get("Unit")})


def parse_sleeps(lines: Iterable[str]) -> list[float]:
    """Reads the start (ticks) and the command line of each sleep(1); returns the uptimes (s) at which they end."""
    found: list[float] = []
    for line in lines:
        start, _, *durations = line.split()
        parts = [_DURATION.fullmatch(duration) for duration in durations]
        if parts and start.isdigit() and all(parts):
            seconds = sum(float(part[1]) * _SECONDS[part[2]] for part in parts if part)
            found.append(int(start) / _TICKS + seconds)
    return sorted(found)


def parse_crontabs(lines: Iterable[str]) -> list[str]:
    """Reads lines of crontabs (crontab(5)), each after `system`, with a user before the command, or `user`."""
    found: list[str] = []
    for line in lines:
        kind, _, text = line.partition(" ")
        text = text.strip()
        if not text or text.startswith("#") or _SETTING.match(text) or not (job := _JOB.fullmatch(text)):
            continue
        command = job[1].split(None, 1)[-1] if kind == "system" else job[1]
        found.append(_PERCENT.sub("", command).replace("\\%", "%").strip())
    return found
