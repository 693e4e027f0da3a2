"""The accounts: which can log in by a password, and which log in by themselves."""

from __future__ import annotations

from lifsea_testbed.guest.shell import Shell

_AUTOLOGIN = "grep -l -a -z -x -e --autologin -e '--autologin=.*' /proc/[0-9]*/cmdline 2>/dev/null || :"


def with_password(shell: Shell) -> list[str]:
    """Returns the accounts whose password field is empty or holds a hash."""
    return parse_shadow(shell.run("cat /etc/shadow").stdout)


def parse_shadow(text: str) -> list[str]:
    """Reads shadow(5): a field that starts with ! or * lets nobody in by password."""
    rows = [line.split(":") for line in text.splitlines() if ":" in line]
    return [row[0] for row in rows if not row[1].startswith(("!", "*"))]


def logged_in_by_themselves(shell: Shell) -> list[str]:
    """Returns the processes (paths in /proc) of a getty that was told to log somebody in without asking."""
    return shell.run(_AUTOLOGIN).lines
