"""What a guest has planned for later is found, and started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from lifsea_testbed.guest.pending import PendingWork, parse_crontabs, parse_pending, parse_sleeps
from lifsea_testbed.support.protocols import CommandResult
from tests.support.fakes import FakeShell


class HostShell:
    """Runs scripts on this host."""

    def run(self, script: Any, *, check: bool = True, within: float = 20.0, input: bytes = b"") -> CommandResult:
        done = subprocess.run(["sh", "-c", script], capture_output=True, check=check, timeout=within, input=input)
        return CommandResult(script=script, exit_status=done.returncode, output=done.stdout, errors=done.stderr,
                             duration=0.0)  # fmt: skip


UNITS = """\
Unit=systemd-tmpfiles-clean.service
Id=systemd-tmpfiles-clean.timer
ActiveState=active

Unit=fstrim.service
Id=fstrim.timer
ActiveState=inactive

Unit=watcher.service
Id=watcher.path
ActiveState=active
"""
CRONTABS = [
    "system # m h dom mon dow user command", "system SHELL=/bin/sh", "system MAILTO = root", "system ",
    "system 17 *\t* * *\troot    cd / && run-parts --report /etc/cron.hourly",
    "system @reboot root /usr/bin/late --port 22",
    "user */5 * * * * /usr/bin/backup %first%second", "user @daily date +\\%F",
    "user only four words here", "user",
]  # fmt: skip


def test_units_that_an_active_timer_or_path_starts_are_pending() -> None:
    assert parse_pending(UNITS) == ["systemd-tmpfiles-clean.service", "watcher.service"]
    assert parse_pending("") == parse_pending("Failed to connect to bus\n") == []


def test_the_commands_of_crontabs_are_pending() -> None:
    assert parse_crontabs(CRONTABS) == [
        "cd / && run-parts --report /etc/cron.hourly", "/usr/bin/late --port 22", "/usr/bin/backup", "date +%F",
    ]  # fmt: skip


def test_a_script_that_sleeps_goes_on_when_its_sleep_ends() -> None:
    sleeps = ["1250 sleep 120 ", "900 sleep 1m 0.5", "100 /usr/bin/sleep 1h", "5 sleep infinity", "5 sleep",
              "x sleep 3"]  # fmt: skip
    assert parse_sleeps(sleeps) == [9.0 + 60.5, 12.5 + 120.0, 1.0 + 3600.0]


def test_a_sleep_of_this_host_is_found() -> None:
    """The script of the question, run by a real shell."""
    with subprocess.Popen(["sleep", "1234.5"]) as process:
        try:
            uptime = float(Path("/proc/uptime").read_text("ascii").split()[0])
            ends = PendingWork(HostShell()).wakings()
        finally:
            process.kill()
    assert [end for end in ends if abs(end - uptime - 1234.5) < 30]


def test_all_is_started_but_what_is_spared() -> None:
    shell = FakeShell({"systemctl show": UNITS, "crond?": "\n".join(CRONTABS), "atd": "/var/spool/at/a01\n",
                       "setsid": "", "systemctl start": (1, "")})  # fmt: skip
    started = PendingWork(shell).start([r"systemd-tmpfiles-.*", "cd / .*", "date.*"])
    assert started == ["watcher.service", "/usr/bin/late --port 22", "/usr/bin/backup", "sh /var/spool/at/a01"]
    (units,) = [script for script in shell.scripts if "systemctl start" in script]
    assert units.endswith("systemctl start watcher.service")
    assert [script for script in shell.scripts if "setsid" in script and "sh /var/spool/at/a01" in script]


def test_a_machine_with_nothing_planned_is_left_alone() -> None:
    shell = FakeShell({"systemctl show": "", "crond?": "", "atd": ""})
    assert PendingWork(shell).start() == []
    assert [script for script in shell.scripts if "systemctl start" in script or "setsid" in script] == []
