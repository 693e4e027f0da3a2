"""What a guest has planned for later is found, and started."""

from __future__ import annotations

from lifsea_testbed.guest.pending import PendingWork, parse_crontabs, parse_pending
from tests.support.fakes import FakeShell

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
