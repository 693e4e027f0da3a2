"""Single services of systemd: their state, their journal, the last error in it; and control over them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from lifsea_testbed.guest.answers import readable
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell

#: Lines of a journal that are searched for the last error, and that become evidence.
_SEARCHED, _SHOWN = 400, 40
#: Time for a service to stop and start (seconds on real hardware).
_RESTARTING = 60.0
#: klog (k8s.io/klog): severity, date, time, process, place. logrus, as containerd has it: level and message.
_KLOG = re.compile(r'^([EF])\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] (.+)$')
_LOGRUS = re.compile(r'level=(error|fatal)\b.*?\bmsg="((?:[^"\\]|\\.)*)"(?:.*?\berror="((?:[^"\\]|\\.)*)")?')
_PLAIN = re.compile(r"(?i)^(?:Error: |containerd: )(.+)$")
#: An error that a healthy kubelet logs again and again.
_HARMLESS = "Unable to read config path"


@dataclass(frozen=True, kw_only=True)
class ServiceState:
    """The state of a service by systemd: ActiveState and SubState, its main process, the number of its restarts."""

    name: str
    state: str
    process: int
    restarts: int

    @property
    def runs(self) -> bool:
        """Whether its main process runs."""
        return self.state == "active (running)"


class Services:
    """The services of systemd, one at a time, by the names of their units."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def state(self, unit: str) -> ServiceState:
        """Returns the state of a service; one that is not installed is inactive (dead)."""
        properties = "ActiveState,SubState,MainPID,NRestarts"
        answer = self._shell.run(["systemctl", "show", f"--property={properties}", unit])
        shown = dict(line.partition("=")[::2] for line in split_lines(answer.stdout))
        with readable(answer, expected=properties):
            return ServiceState(name=unit, state=f"{shown['ActiveState']} ({shown['SubState']})",
                                process=int(shown.get("MainPID") or 0),
                                restarts=int(shown.get("NRestarts") or 0))  # fmt: skip

    def journal(self, unit: str, lines: int = _SHOWN) -> str:
        """Returns the end of a service's journal."""
        return self._shell.run(f"journalctl --boot --no-pager --output=cat --lines={lines} --unit={shlex.quote(unit)}",
                               check=False).stdout  # fmt: skip

    def last_error(self, unit: str, about: str = "") -> str:
        """Returns the last error of a service's journal that matches a regular expression, without time and place.

        A fatal error is the last line of a process that ended, and is preferred to other errors.
        """
        return last_error(self.journal(unit, _SEARCHED), about)

    def restart(self, unit: str) -> None:
        """Stops a service and starts it."""
        self._shell.run(["systemctl", "restart", unit], within=_RESTARTING)

    def stop(self, unit: str) -> None:
        """Stops a service."""
        self._shell.run(["systemctl", "stop", unit], within=_RESTARTING)

    def crash(self, unit: str) -> None:
        """Kills the main process of a service."""
        self._shell.run(["systemctl", "kill", "--kill-who=main", "--signal=KILL", unit])


def last_error(text: str, about: str = "") -> str:
    """Returns the last error in a text of klog's or logrus' lines, fatal ones first; empty if there is none."""
    found = [(fatal, message) for line in split_lines(text) for fatal, message in [_error(line)]
             if message and re.search(about, message) and not message.startswith(_HARMLESS)]  # fmt: skip
    fatal = [message for is_fatal, message in found if is_fatal]
    return _innermost((fatal or [message for _, message in found] or [""])[-1])


def _innermost(message: str) -> str:
    """The reason within a message that nests statuses of gRPC: the innermost description."""
    _, sign, reason = message.rpartition("desc = ")
    return reason.replace("\\", "").strip('"') if sign else message


def _error(line: str) -> tuple[bool, str]:
    """Whether a line is a fatal error, and its message; no message where it is no error."""
    if match := _KLOG.search(line):
        return match[1] == "F", match[2]
    if match := _LOGRUS.search(line):
        message = ": ".join(part.replace('\\"', '"') for part in (match[2], match[3]) if part)
        return match[1] == "fatal", message
    if match := _PLAIN.search(line):
        return True, match[1]
    return False, ""
