"""The access methods that open a root shell: each starts the guest's end of a command channel on some device.

They need a `Console` (support/protocols.py) and nothing else of a machine.
"""

from __future__ import annotations

import re

from lifsea_testbed.console import user_data
from lifsea_testbed.errors import WaitTimedOut
from lifsea_testbed.profiles.profile import AccessSection, ChannelDevice
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.protocols import Console

_LOGIN, _PASSWORD = re.compile(r"login: ?"), re.compile(r"[Pp]assword: ?")
#: A console without a prompt is sent a newline after so long (seconds): the kernel may have printed over the prompt.
_WAKE_EVERY = 3.0
_HERE = "/run/lifsea-testbed-agent"


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
    return _TYPED.format(here=_HERE, agent=user_data.agent("terminal.sh").expandtabs(2), become=become).encode()


def _answer(console: Console, prompt: re.Pattern[str], answer: str, deadline: Deadline) -> None:
    position = console.position
    while not console.wait_for_prompt(prompt, position, deadline.at_most(_WAKE_EVERY)):
        if deadline.expired:
            raise WaitTimedOut(f"the console showed no prompt {prompt.pattern!r} within {deadline.allowance:.0f} s",
                               evidence=console.tail())
        console.send(b"\n")
    console.send(f"{answer}\n".encode())


_TYPED = """
stty -echo; unset HISTFILE
{become}mkdir -p {here}; {become}tee {here}/agent.sh >/dev/null <<'END-OF-AGENT'
{agent}
END-OF-AGENT
exec {become}sh {here}/agent.sh "$(tty)"
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
