"""The accounts: which can log in by a password, and which are logged in automatically."""

from __future__ import annotations

import re

from lifsea_testbed.support.protocols import Shell

_STARTED = "systemctl show --property=Id --property=ExecStart '*.service'"
_RUNNING = "tr '\\0' ' ' </proc/$pid/cmdline 2>/dev/null; echo"
_PROCESSES = f"for pid in /proc/[0-9]*; do pid=${{pid#/proc/}}; echo \"$pid $({_RUNNING})\"; done"
#: A getty with the option of an automatic login, and the login that it becomes then (agetty(8), login(1)).
_AUTOMATIC = re.compile(r"getty\s(?:.*\s)?(?:--autologin\b|-a\s)|\blogin\s(?:.*\s)?-f\b")


class Accounts:
    """The accounts of the system."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def with_password(self) -> list[str]:
        """Returns the accounts whose password field is empty or holds a hash."""
        return parse_shadow(self._shell.run("cat /etc/shadow").stdout)

    def automatic_logins(self) -> list[str]:
        """Returns the programs that log somebody in without a password: services by name, processes by number."""
        return parse_services(self._shell.run(_STARTED).stdout) + parse_processes(self._shell.run(_PROCESSES).lines)


def parse_shadow(text: str) -> list[str]:
    """Reads shadow(5): a field that starts with ! or * admits nobody by password."""
    rows = [line.split(":") for line in text.splitlines() if ":" in line]
    return [row[0] for row in rows if not row[1].startswith(("!", "*"))]


def parse_services(text: str) -> list[str]:
    """Reads the output of `systemctl show`: paragraphs with the lines Id=NAME and ExecStart={ … argv[]=… }."""
    return [name for paragraph in text.split("\n\n") if _AUTOMATIC.search(paragraph)
            for name in re.findall(r"^Id=(.*)", paragraph, re.MULTILINE)]  # fmt: skip


def parse_processes(lines: list[str]) -> list[str]:
    """Reads lines of a process's number and its arguments."""
    return [f"process {line.strip()}" for line in lines if _AUTOMATIC.search(line)]
