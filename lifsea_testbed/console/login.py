"""The access methods that open a root shell: each starts the guest's end of a command channel on some device.

They need a `Console` (support/protocols.py) and nothing else of a machine.
"""

from __future__ import annotations

import importlib.resources
import re

from lifsea_testbed.errors import WaitTimedOut
from lifsea_testbed.profiles.profile import AccessSection, ChannelDevice
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.guest_paths import DIRECTORY, USER_DATA_RUNS
from lifsea_testbed.support.protocols import Console

_UNIT = "lifsea-testbed-shell.service"
_LOGIN, _PASSWORD = re.compile(r"login: ?"), re.compile(r"[Pp]assword: ?")
#: A console without a prompt is sent a newline after so long (seconds): the kernel may have printed over the prompt.
_WAKE_EVERY = 3.0
_HERE = "/run/lifsea-testbed-agent"


def user_data(port: str, line: ChannelDevice) -> bytes:
    """Returns a user-data script that opens a command channel, now and at each later boot.

    It writes below /etc only, which every profile promises to be writable: a script and a systemd unit. A virtio-serial
    port is found by its name through sysfs, so that images with trimmed udev rules work as well; on a terminal the
    getty is stopped.
    """
    agent = _agent("channel.sh" if line is ChannelDevice.PORT else "terminal.sh")
    opening = _OPEN_PORT.format(port=port, directory=DIRECTORY) if line is ChannelDevice.PORT else \
        f"exec /bin/sh {DIRECTORY}/agent.sh /dev/{line}\n"  # fmt: skip
    taking = "" if line is ChannelDevice.PORT else _TAKE_TERMINAL.format(line=line)
    return _USER_DATA.format(directory=DIRECTORY, runs=USER_DATA_RUNS, unit=_UNIT, agent=agent, opening=opening,
                             taking=taking).encode()  # fmt: skip


def console_shell_user_data() -> bytes:
    """Returns a user-data script that opens an interactive root shell on ttyS0, now and at each later boot."""
    opening = 'export TERM=vt220; cd /root; if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi\n'
    script = _USER_DATA.format(directory=DIRECTORY, runs=USER_DATA_RUNS, unit=_UNIT, agent="", opening=opening,
                               taking=_TAKE_TERMINAL.format(line=ChannelDevice.SERIAL))  # fmt: skip
    service = f"[Service]\nStandardInput=tty-force\nTTYPath=/dev/{ChannelDevice.SERIAL}\n"
    return script.replace("[Service]\n", service).encode()


def console_shell_script() -> str:
    """Returns a script that opens a root shell on ttyS0 of a running machine and stops other readers of ttyS0."""
    return _AT_CONSOLE.format(line=ChannelDevice.SERIAL)


def log_in(console: Console, access: AccessSection, deadline: Deadline) -> None:
    """Logs in on a console: enters the user's name at the prompt, and the password if the user has one.

    Raises:
        WaitTimedOut: the prompt did not appear in time.
    """
    _answer(console, _LOGIN, access.user, deadline)
    if access.password:
        _answer(console, _PASSWORD, access.password, deadline)


def type_agent(console: Console, access: AccessSection) -> None:
    """Types the guest's end of a command channel into the shell at a console's prompt, and starts it there.

    Tabs, on which an interactive shell completes words, are typed as blanks.
    """
    console.send(typed(access))


def interrupt(console: Console) -> None:
    """Sends Ctrl-C, so that a shell discards incomplete input.

    On a line without flow control a busy guest loses bytes: a here-document without its end would block forever.
    """
    console.send(b"\x03")


def typed(access: AccessSection) -> bytes:
    """Returns the input for a shell on a console that starts the guest's end of a command channel there."""
    become = f"{access.become} " if access.become else ""
    return _TYPED.format(here=_HERE, agent=_agent("terminal.sh").expandtabs(2), become=become).encode()


def _answer(console: Console, prompt: re.Pattern[str], answer: str, deadline: Deadline) -> None:
    position = console.position
    while not console.wait_for_prompt(prompt, position, deadline.at_most(_WAKE_EVERY)):
        if deadline.expired:
            raise WaitTimedOut(f"the console showed no prompt {prompt.pattern!r} within {deadline.allowance:.0f} s",
                               evidence=console.tail())
        console.send(b"\n")
    console.send(f"{answer}\n".encode())


def _agent(name: str) -> str:
    return importlib.resources.files("lifsea_testbed.console").joinpath(name).read_text("utf-8")


_TYPED = """
stty -echo; unset HISTFILE
{become}mkdir -p {here}; {become}tee {here}/agent.sh >/dev/null <<'END-OF-AGENT'
{agent}
END-OF-AGENT
exec {become}sh {here}/agent.sh "$(tty)"
"""
# The kernel may load the port's driver, if that is a module, after this has started.
_OPEN_PORT = """reported=
while :; do
	for name in /sys/class/virtio-ports/*/name; do
		[ -r "$name" ] && read -r is <"$name" && [ "$is" = "{port}" ] || continue
		device=${{name%/name}}
		exec /bin/sh {directory}/agent.sh "/dev/${{device##*/}}"
	done
	[ -n "$reported" ] || echo "no virtio-serial port is called {port} yet"
	reported=yes
	sleep 0.1 || sleep 1
done
"""
_TAKE_TERMINAL = """for getty in serial-getty getty; do
	ln -sf /dev/null /etc/systemd/system/$getty@{line}.service
	systemctl stop $getty@{line}.service
done
"""
# terminal.sh has its terminal at descriptor 4; it sends its result before it is stopped.
_AT_CONSOLE = """{{
	sleep 1
	for process in /proc/[0-9]*; do
		case "$(readlink "$process/fd/0" "$process/fd/4")" in */dev/{line}*) kill -STOP "${{process#/proc/}}" ;; esac
	done
	export TERM=vt220 HOME=/root
	exec setsid -c sh -c 'stty sane; cd /root; if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi' \
		</dev/{line} >/dev/{line} 2>&1
}} >/dev/null 2>&1 &
"""
# A machine whose first boot was cut may run this again while the shell of an earlier run reads these files.
_USER_DATA = """#!/bin/sh
mkdir -p {directory}/new /etc/systemd/system/basic.target.wants
id -u >>{runs}
cat >{directory}/new/agent.sh <<'END-OF-AGENT'
{agent}
END-OF-AGENT
cat >{directory}/new/open.sh <<'END-OF-OPEN'
{opening}END-OF-OPEN
mv {directory}/new/agent.sh {directory}/new/open.sh {directory}
cat >/etc/systemd/system/{unit} <<'END-OF-UNIT'
[Unit]
Description=Root shell for the test bed
DefaultDependencies=no
After=local-fs.target
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/sh {directory}/open.sh
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
Restart=always
RestartSec=0.1
OOMScoreAdjust=-1000
[Install]
WantedBy=basic.target
END-OF-UNIT
ln -sf ../{unit} /etc/systemd/system/basic.target.wants/{unit}
systemctl daemon-reload
{taking}systemctl --no-block start {unit}
"""
