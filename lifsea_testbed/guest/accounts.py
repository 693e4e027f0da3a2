"""The accounts: which can log in by a password, and which log in by themselves."""

from __future__ import annotations

import re

from lifsea_testbed.support.protocols import Shell

_STARTED = "systemctl show --property=Id --property=ExecStart '*.service'"
_RUNNING = "tr '\\0' ' ' </proc/$pid/cmdline 2>/dev/null; echo"
_PROCESSES = f"for pid in /proc/[0-9]*; do pid=${{pid#/proc/}}; echo \"$pid $({_RUNNING})\"; done"
#: A getty that is told whom to log in, and the login that it becomes then, told not to ask (agetty(8), login(1)).
_AUTOMATIC = re.compile(r"getty\s(?:.*\s)?(?:--autologin\b|-a\s)|\blogin\s(?:.*\s)?-f\b")


def with_password(shell: Shell) -> list[str]:
    """Returns the accounts whose password field is empty or holds a hash."""
    return parse_shadow(shell.run("cat /etc/shadow").stdout)


def parse_shadow(text: str) -> list[str]:
    """Reads shadow(5): a field that starts with ! or * lets nobody in by password."""
    rows = [line.split(":") for line in text.splitlines() if ":" in line]
    return [row[0] for row in rows if not row[1].startswith(("!", "*"))]


def logged_in_by_themselves(shell: Shell) -> list[str]:
    """Returns what logs somebody in without asking: services by their name, processes by their number."""
    return parse_services(shell.run(_STARTED).stdout) + parse_processes(shell.run(_PROCESSES).lines)


def parse_services(text: str) -> list[str]:
    """Reads what `systemctl show` tells of services: paragraphs with the lines Id=NAME and ExecStart={ … argv[]=… }."""
    return [name for paragraph in text.split("\n\n") if _AUTOMATIC.search(paragraph)
            for name in re.findall(r"^Id=(.*)", paragraph, re.MULTILINE)]  # fmt: skip


def parse_processes(lines: list[str]) -> list[str]:
    """Reads lines of a process's number and its arguments."""
    return [f"process {line.strip()}" for line in lines if _AUTOMATIC.search(line)]
