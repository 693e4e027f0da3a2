"""The system as a whole: os-release, host name, shell, journal, identity, udev rules; and its clock."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest import kernel_files
from lifsea_testbed.guest.answers import number, readable
from lifsea_testbed.support.guest_paths import USER_DATA_RUNS
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell

#: How often the clock is read; the reading that was answered fastest counts.
_READINGS = 3
#: os-release(5): the second is read where there is no first.
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
#: udev(7), "Rules Files": the directories of rules on a disk; a running system has those in /run as well.
UDEV_RULES = ("/etc/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d")
#: The parts of a value: what is quoted, escaped, bare, or between words (POSIX.1-2017, Shell Command Language, 2.2).
_FORMS = r"""'{}[^']*)'|"{}(?:[^"\\]|\\.)*)"|\\{}.)|{}[^\s'"\\]+)|\s+"""
_PART = re.compile(_FORMS.format("(?P<single>", "(?P<double>", "(?P<escaped>", "(?P<bare>"), re.DOTALL)
_WORDS = re.compile(f"(?:{_FORMS.format(*('(?:',) * 4)})*+", re.DOTALL)
_ESCAPED = re.compile(r"\\([\\\"$`])")
_UDEV_RULES = f"""
for directory in /run/udev/rules.d {" ".join(UDEV_RULES)}; do
    cat "$directory"/*.rules 2>/dev/null
done
exit 0
"""


class System:
    """The system as a whole; `identity_files` are the shell patterns of the files that differ between machines."""

    def __init__(self, shell: Shell, identity_files: Sequence[str] = ()) -> None:
        self._shell = shell
        self._identity_files = identity_files

    def os_release(self) -> dict[str, str]:
        """Returns the fields of os-release(5), unquoted."""
        return parse_os_release(self._shell.run(f"cat {' 2>/dev/null || cat '.join(OS_RELEASE)}").stdout)

    def host_name(self) -> str:
        """Returns the kernel's host name."""
        return self._shell.run(kernel_files.first_lines(["/proc/sys/kernel/hostname"])).stdout.strip()

    def has_posix_shell(self) -> bool:
        """Returns whether /bin/sh exists and runs a script."""
        return self._shell.run("/bin/sh -c 'exit 7'", check=False).exit_status == 7

    def journal(self) -> str:
        """Returns the journal of this boot; empty if there is none."""
        return self._shell.run("journalctl --boot --no-pager --output=short-monotonic", check=False).stdout

    def user_data_runs(self) -> list[str]:
        """Returns the user identifiers with which the user-data script ran, one for each run, in order."""
        return self._shell.run(f"cat {USER_DATA_RUNS}").lines

    def identity(self) -> dict[str, str]:
        """Returns the digest of each file that distinguishes this machine from others, by path, without empty files."""
        patterns = " ".join(self._identity_files)
        script = f"for file in {patterns}; do [ -s \"$file\" ] && sha256sum \"$file\"; done; exit 0"
        answer = self._shell.run(script)
        with readable(answer, expected="a digest and a path on each line"):
            return parse_digests(answer.lines)

    def lacking_identity(self) -> list[str]:
        """Returns the files that have to distinguish machines, by their whole path, and that are not there or empty."""
        paths = [path for path in self._identity_files if not set(path) & set("*?[")]
        return self._shell.run(f"for file in {shlex.join(paths)}; do [ -s \"$file\" ] || echo \"$file\"; done").lines

    def udev_rules(self) -> list[str]:
        """Returns the rules of all udev files together."""
        return parse_udev_rules(self._shell.run(_UDEV_RULES).stdout)


@dataclass(frozen=True, kw_only=True)
class ClockTracking:
    """What chronyd knows of the clock: its source, and by how much the clock is off, as it estimates (seconds)."""

    source: str
    stratum: int
    offset: float
    is_synchronised: bool


class Clock:
    """The system clock and its time servers."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def time_sources(self) -> list[str]:
        """Returns the names or addresses of the sources that chronyd has, reachable or not; none without chronyd."""
        # -a, since chrony 4.1, lists sources whose name could not be resolved as well.
        answer = self._shell.run("chronyc -c -N sources -a || chronyc -c -N sources", check=False)
        rows = [line.split(",") for line in answer.lines] if answer.ok else []
        return [row[2] for row in rows if len(row) > 2]

    def tracking(self) -> ClockTracking | None:
        """Returns what chronyd reports of the clock; nothing if it does not answer.

        Raises:
            NotJudged: the image has no chronyc.
        """
        answer = self._shell.run("chronyc -c tracking", check=False)
        if answer.exit_status == 127:
            raise NotJudged("the image has no chronyc to learn the clock's offset from", Reason.IMAGE)
        with readable(answer, expected="a row of fields with commas between them (chronyc(1), -c)"):
            return parse_tracking(answer.stdout) if answer.ok else None

    def ahead(self) -> float:
        """Returns how many seconds the guest's clock is ahead of the host's; negative if it is behind.

        Right to half of the quickest of three answers' time; to a second where date(1) does not know fractions.
        """
        return min((self._reading() for _ in range(_READINGS)), key=lambda reading: reading[1])[0]

    def _reading(self) -> tuple[float, float]:
        """How far the clock is ahead, and how long the answer took (seconds)."""
        before = time.time()
        answer = self._shell.run("date +%s.%N")
        after = time.time()
        seconds, _, fraction = answer.stdout.strip().partition(".")
        with readable(answer, expected="seconds since the epoch"):
            shown = number(f"{seconds}.{fraction if fraction.isdigit() else 5}")
        return shown - (before + after) / 2, after - before


def parse_tracking(text: str) -> ClockTracking | None:
    """Reads the line of `chronyc -c tracking` (chronyc(1)); nothing where it is no such line."""
    fields = text.strip().split(",")
    if len(fields) < 14:
        return None
    return ClockTracking(source=fields[1], stratum=int(fields[2]), offset=float(fields[4]),
                         is_synchronised=fields[13] in ("Normal", "Insert second", "Delete second"))  # fmt: skip


def parse_os_release(text: str) -> dict[str, str]:
    """Reads os-release(5)."""
    pairs = (line.partition("=") for line in split_lines(text) if "=" in line)
    return {name: _unquoted(value) for name, _, value in pairs}


def parse_digests(lines: Iterable[str]) -> dict[str, str]:
    """Reads the output of sha256sum: path → digest."""
    return {path: digest for digest, path in (line.split(maxsplit=1) for line in lines)}


def parse_udev_rules(text: str) -> list[str]:
    """Reads rules (udev(7)): one a line, a backslash at its end continues it, # starts a comment."""
    lines = map(str.strip, split_lines(text.replace("\\\n", " ")))
    return [line for line in lines if line and not line.startswith("#")]


def _unquoted(value: str) -> str:
    """The value as a shell takes it, in linear time; as it is where a quotation does not end."""
    whole = _WORDS.fullmatch(value)
    return "".join(map(_plain, _PART.finditer(value))) if whole else value


def _plain(part: re.Match[str]) -> str:
    if part["double"] is not None:
        return _ESCAPED.sub(r"\1", part["double"])
    return part["single"] or part["escaped"] or part["bare"] or ""
