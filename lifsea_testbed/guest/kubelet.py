"""The kubelet and containerd as services: whether they run, what they last complained of, how they are set."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from lifsea_testbed.support.protocols import Shell

KUBELET, CONTAINERD = "kubelet.service", "containerd.service"
#: Lines of a journal that are looked through for the last complaint, and that become evidence.
_READ, _SHOWN = 400, 40
#: klog (k8s.io/klog): severity, date, time, process, place. logrus, as containerd has it: level and message.
_KLOG = re.compile(r'^([EF])\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] (.+)$')
_LOGRUS = re.compile(r'level=(error|fatal)\b.*?\bmsg="((?:[^"\\]|\\.)*)"(?:.*?\berror="((?:[^"\\]|\\.)*)")?')
#: What a kubelet says over and over, and lives with.
_HARMLESS = "Unable to read config path"
_PLAIN = re.compile(r"(?i)^(?:Error: |containerd: )(.+)$")
_DRIVER = re.compile(r"(?m)^\s*cgroupDriver:\s*[\"']?(\w+)")
_SETTINGS = """
pid=$(systemctl show --property=MainPID --value {unit})
tr '\\0' '\\n' </proc/$pid/cmdline 2>/dev/null || systemctl show --property=ExecStart {unit} | tr ' ' '\\n'
"""
_FULL = "df --output=target,pcent,avail --block-size=1M /var | tail -n 1"


@dataclass(frozen=True, kw_only=True)
class Service:
    """What systemd says of a service: ActiveState and SubState, its main process, how often it was started again."""

    name: str
    state: str
    process: int
    restarts: int

    @property
    def runs(self) -> bool:
        """Whether its main process is there."""
        return self.state == "active (running)"


def service(shell: Shell, name: str) -> Service:
    """Returns the state of a service; one that is not installed is inactive (dead)."""
    said = shell.run(["systemctl", "show", "--property=ActiveState,SubState,MainPID,NRestarts", name]).stdout
    shown = dict(line.partition("=")[::2] for line in said.splitlines())
    return Service(name=name, state=f"{shown.get('ActiveState', '')} ({shown.get('SubState', '')})",
                   process=int(shown.get("MainPID") or 0), restarts=int(shown.get("NRestarts") or 0))  # fmt: skip


def journal(shell: Shell, unit: str, lines: int = _SHOWN) -> str:
    """Returns the end of a unit's journal."""
    return shell.run(f"journalctl --boot --no-pager --output=cat --lines={lines} --unit={shlex.quote(unit)}",
                     check=False).stdout  # fmt: skip


def complaint(shell: Shell, unit: str, about: str = "") -> str:
    """Returns the last error of a unit's journal that matches a regular expression, without time and place.

    A fatal one is the last word of a process that ended, and wins over other errors.
    """
    return last_complaint(journal(shell, unit, _READ), about)


def last_complaint(text: str, about: str = "") -> str:
    """Returns the last error in a text of klog's or logrus' lines, fatal ones first; empty if there is none."""
    found = [(fatal, message) for line in text.splitlines() for fatal, message in [_error(line)]
             if message and re.search(about, message) and not message.startswith(_HARMLESS)]  # fmt: skip
    fatal = [message for is_fatal, message in found if is_fatal]
    return _bare((fatal or [message for _, message in found] or [""])[-1])


def cgroup_driver(shell: Shell) -> str:
    """Returns the kubelet's cgroup driver: of its command line, else of its configuration, else its default."""
    options = shell.run(_SETTINGS.format(unit=KUBELET), check=False).lines
    named = [option.partition("=")[2] for option in options if option.startswith("--cgroup-driver=")]
    files = [option.partition("=")[2] for option in options if option.startswith("--config=")]
    text = shell.run(["cat", *files], check=False).stdout if files else ""
    return (named or _DRIVER.findall(text) or ["cgroupfs"])[-1]


def cgroup_version(shell: Shell) -> int:
    """Returns the version of the kernel's control groups (cgroups(7))."""
    return 2 if shell.run("stat --file-system --format=%T /sys/fs/cgroup").stdout.strip() == "cgroup2fs" else 1


def swaps(shell: Shell) -> list[str]:
    """Returns the files and devices that are swapped to (proc(5))."""
    return [line.split()[0] for line in shell.run("cat /proc/swaps", check=False).lines[1:] if line.strip()]


def full_var(shell: Shell) -> str:
    """Returns how full /var is, if hardly anything is left; empty otherwise."""
    fields = shell.run(_FULL, check=False).stdout.split()
    if len(fields) != 3 or not fields[1].rstrip("%").isdigit() or int(fields[1].rstrip("%")) < 95:
        return ""
    return f"/var is full: {fields[2]} MiB are left"


def files_in(shell: Shell, directory: str) -> list[str]:
    """Returns the names in a directory; none if it is not there."""
    return shell.run(["ls", "-A", directory], check=False).lines


def runtime_sockets(shell: Shell) -> list[str]:
    """Returns the paths of unix sockets on which something of containerd's name listens (proc(5), net/unix)."""
    words = [line.split() for line in shell.run("cat /proc/net/unix").lines]
    paths = {fields[7] for fields in words if len(fields) > 7 and fields[3] == "00010000"}
    return sorted(path for path in paths if "containerd" in path and path.endswith(".sock"))


def _bare(message: str) -> str:
    """What gRPC's status says, of a message that has one within one: the innermost is the reason."""
    _, sign, reason = message.rpartition("desc = ")
    return reason.replace("\\", "").strip('"') if sign else message


def _error(line: str) -> tuple[bool, str]:
    if match := _KLOG.search(line):
        return match[1] == "F", match[2]
    if match := _LOGRUS.search(line):
        message = ": ".join(part.replace('\\"', '"') for part in (match[2], match[3]) if part)
        return match[1] == "fatal", message
    if match := _PLAIN.search(line):
        return True, match[1]
    return False, ""
