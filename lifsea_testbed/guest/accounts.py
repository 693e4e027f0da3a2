"""The accounts: which can log in by a password, which without one, and which are logged in automatically."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from lifsea_testbed.guest import pam
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell

#: The files of accounts: nsswitch's sources files, altfiles (libnss-altfiles) and extrausers (libnss-extrausers).
PASSWD_FILES = ("/etc/passwd", "/usr/lib/passwd", "/var/lib/extrausers/passwd")
SHADOW_FILES = ("/etc/shadow", "/usr/lib/shadow", "/var/lib/extrausers/shadow")
#: A group with a password takes in whoever knows it (newgrp(1)).
GROUP_FILES = ("/etc/group", "/etc/gshadow", "/usr/lib/group", "/var/lib/extrausers/group",
               "/var/lib/extrausers/gshadow")  # fmt: skip
_STARTED = "systemctl show --property=Id --property=ExecStart '*.service'"
_TEXTS = "for file in {files}; do [ -f \"$file\" ] && {{ printf '%s\\n' \"$file\"; cat \"$file\"; echo; }}; " \
         "printf '\\0'; done"  # fmt: skip
# A line for each process: its number, its parent, the file that its standard input is, and its arguments.
_PROCESSES = """
echo $$
for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    parent=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$pid/status 2>/dev/null)
    reads=$(readlink /proc/$pid/fd/0 2>/dev/null || echo -)
    echo "$pid ${parent:-0} $reads $(tr '\\0' ' ' </proc/$pid/cmdline 2>/dev/null)"
done
"""
#: A getty with the option of an automatic login, one that starts another program than login or tells login not to ask,
#: and the login that it becomes then (agetty(8), login(1)).
_AUTOMATIC = re.compile(r"getty\s(?:.*\s)?(?:--autologin\b|-a\s|--skip-login\b|-n\b|--login-options\b.*-f\b|-o\s.*-f\b)"
                        r"|\blogin\s(?:.*\s)?-f\b")  # fmt: skip
#: A shell that a unit starts on a terminal (systemd.exec(5)), as debug-shell.service does.
_SHELL = re.compile(r"(?:\bpath=|^ExecStart=[-@:+!]*)\S*/(?:ba|da|a|z|k|mk|c|tc)?sh(?:\s|$)", re.MULTILINE)
_ON_TERMINAL = re.compile(r"^StandardInput=tty", re.MULTILINE)
#: A terminal that a person sits at: a virtual, serial or paravirtual console.
_CONSOLE = re.compile(r"/dev/(?:console|tty\d+|tty(?:S|AMA|USB)\d+|hvc\d+|xvc\d+)")
#: The programs that ask on a terminal who is there.
_ASKING = re.compile(r"(?:\S*/)?-?(?:a?getty|m(?:in)?getty|login|sulogin|systemd-tty-ask-password-agent)\b")
_LOCKED = ("!", "*")
_IN_SHADOW = "x"


class Accounts:
    """The accounts of the system."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def with_password(self) -> list[str]:
        """Returns the accounts that a password opens, or none is needed for, and groups with a password, sorted.

        Every file of accounts is read: a field that is empty or holds a hash, in shadow or in passwd itself. Further
        accounts with the user identifier of root are among them, each with its reason.
        """
        return opened(self._texts)

    def without_password(self) -> list[str]:
        """Returns the services of PAM that let in whoever gives a wrong password, each with the module that does."""
        return pam.admitting(self._texts([f"{directory}/*" for directory in pam.DIRECTORIES]))

    def automatic_logins(self) -> list[str]:
        """Returns the programs that log somebody in without a password: services by name, processes by number."""
        shown = self._shell.run(f"{_STARTED} --property=StandardInput").stdout
        return parse_services(shown) + parse_processes(self._shell.run(_PROCESSES).lines)

    def _texts(self, patterns: Iterable[str]) -> dict[str, str]:
        """The texts of those files that exist, by path."""
        output = self._shell.run(_TEXTS.format(files=" ".join(patterns))).stdout
        pairs = (part.partition("\n") for part in output.split("\0") if part)
        return {path: text for path, _, text in pairs}


def opened(texts: Callable[[Iterable[str]], dict[str, str]]) -> list[str]:
    """Returns what a password opens, of the files that `texts` returns by path: accounts, groups, other roots."""
    found = {name for text in texts(SHADOW_FILES).values() for name in parse_shadow(text)}
    for text in texts(PASSWD_FILES).values():
        found |= {*parse_passwd(text)}
    return sorted(found | {name for text in texts(GROUP_FILES).values() for name in parse_group(text)})


def parse_shadow(text: str) -> list[str]:
    """Reads shadow(5): a field that starts with ! or * admits nobody by password."""
    return [row[0] for row in _rows(text) if not row[1].startswith(_LOCKED)]


def parse_passwd(text: str) -> list[str]:
    """Reads passwd(5): a field x refers to shadow, one that starts with ! or * admits nobody, root alone has number 0.

    A row that starts with + takes in the accounts of a directory service (nsswitch.conf(5), compat).
    """
    open_fields = [row[0] for row in _rows(text) if row[1] != _IN_SHADOW and not row[1].startswith(_LOCKED)]
    others = [f"{row[0]} (user identifier 0)" for row in _rows(text)
              if len(row) > 2 and row[2].strip().isdigit() and int(row[2]) == 0 and row[0] != "root"]  # fmt: skip
    return open_fields + others


def parse_group(text: str) -> list[str]:
    """Reads group(5) and gshadow(5): an empty field asks nobody for a password, and takes nobody in."""
    return [f"group {row[0]}" for row in _rows(text)
            if row[1] not in ("", _IN_SHADOW) and not row[1].startswith(_LOCKED)]  # fmt: skip


def parse_services(text: str) -> list[str]:
    """Reads the output of `systemctl show`: paragraphs with lines Id=NAME, StandardInput=, ExecStart={ … argv[]=… }."""
    return [name for paragraph in text.split("\n\n") if logs_in(paragraph) or opens_shell(paragraph)
            for name in re.findall(r"^Id=(.*)", paragraph, re.MULTILINE)]  # fmt: skip


def logs_in(unit: str) -> bool:
    """Returns whether a service, by the text of its unit, logs somebody in without asking."""
    return _AUTOMATIC.search(unit) is not None


def opens_shell(unit: str) -> bool:
    """Returns whether a service, by the text of its unit, starts a shell on a terminal, and not behind sulogin(8)."""
    return "sulogin" not in unit and bool(_SHELL.search(unit) and _ON_TERMINAL.search(unit))


def parse_processes(lines: list[str]) -> list[str]:
    """Returns the processes that log in automatically, or that read from a console without having asked who is there.

    Reads the test bed's own process, then a line each of process, parent, standard input and arguments. The test bed's
    own shell, with its ancestors and descendants, does not count: it may have come over a console.
    """
    rows = [line.split(maxsplit=3) for line in lines[1:]]
    processes = {row[0]: (row[1], row[2], row[3] if len(row) > 3 else "") for row in rows if len(row) > 2}
    own = _related(lines[0].strip() if lines else "", {pid: row[0] for pid, row in processes.items()})
    unasked = {pid for pid, (_, reads, arguments) in processes.items() if arguments and _CONSOLE.fullmatch(reads)
               and not _ASKING.match(arguments)} - own  # fmt: skip
    return [f"process {pid} {arguments.strip()}" for pid, (_, _, arguments) in processes.items()
            if pid in unasked or _AUTOMATIC.search(arguments)]  # fmt: skip


def _related(own: str, parents: dict[str, str]) -> set[str]:
    """The ancestors of a process except the first of all, and everything that descends from one of them."""
    related: set[str] = set()
    while own not in related and own not in ("", "0", "1"):
        related.add(own)
        own = parents.get(own, "")
    while more := {pid for pid, parent in parents.items() if parent in related} - related:
        related |= more
    return related | {"1"}


def _rows(text: str) -> list[list[str]]:
    return [line.split(":") for line in split_lines(text) if ":" in line and not line.startswith("#")]
