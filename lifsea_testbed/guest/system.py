"""The system as a whole: who it says it is, its shell, its journal."""

from __future__ import annotations

import shlex

from lifsea_testbed.support.guest_paths import USER_DATA_RUNS
from lifsea_testbed.support.protocols import Shell


def os_release(shell: Shell) -> dict[str, str]:
    """Returns the fields of os-release(5), unquoted."""
    return parse_os_release(shell.run("cat /etc/os-release").stdout)


def parse_os_release(text: str) -> dict[str, str]:
    """Reads os-release(5)."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: _unquoted(value) for name, _, value in pairs}


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value)) if value else ""
    except ValueError:  # A quotation that does not end: the system that reads it takes it as it is.
        return value


def host_name(shell: Shell) -> str:
    """Returns the kernel's host name."""
    return shell.run("cat /proc/sys/kernel/hostname").stdout.strip()


def has_posix_shell(shell: Shell) -> bool:
    """Tells whether /bin/sh exists and runs a script."""
    return shell.run("/bin/sh -c 'exit 7'", check=False).exit_status == 7


def journal(shell: Shell) -> str:
    """Returns the journal of this boot; empty if there is none."""
    return shell.run("journalctl --boot --no-pager --output=short-monotonic", check=False).stdout


def user_data_runs(shell: Shell) -> list[str]:
    """Returns the user identifiers with which the user-data script ran, one for each run."""
    return shell.run(f"cat {USER_DATA_RUNS}").lines
