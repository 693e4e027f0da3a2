"""The console of a machine on the user's terminal: keys go to ttyS0, its output is shown, one key opens the monitor."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator

from lifsea_testbed.console.login import console_shell_script
from lifsea_testbed.console.user_data import console_shell_user_data
from lifsea_testbed.errors import CallerError, GuestFailure, NotJudged, TestbedError
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.snapshot import Snapshot
from lifsea_testbed.support.polling import wait_for_ready
from lifsea_testbed.support.sanitize import printable
from lifsea_testbed.support.terminal_filter import TerminalFilter

#: Ctrl-] leaves, as in telnet; Ctrl-T opens the monitor for one command.
LEAVE, MONITOR = 0x1D, 0x14
HELP = "Ctrl-] leaves and cuts the power, Ctrl-T gives one command to QEMU's monitor (Ctrl-T help)"


def boot(factory: MachineFactory) -> None:
    """Boots the image with a root shell on ttyS0 and connects its console to the terminal until either ends.

    Raises:
        CallerError: stdin is not a terminal.
        GuestCrashed, LaunchError: the machine ended by itself.
    """
    require_terminal()
    spec = MachineSpec(name="interactive", state=InitialState.STARTED,
                       user_data=console_shell_user_data(factory.profile.access))  # fmt: skip
    with factory.create(spec) as machine:
        attach(machine)


def resume(factory: MachineFactory, kept: Snapshot) -> None:
    """Resumes a saved machine, with a root shell on ttyS0, and connects its console to the terminal.

    The saved files are not changed: the machine can be resumed again. If the guest opens no shell any more, its console
    and the monitor are connected all the same.

    Raises:
        CallerError: stdin is not a terminal, or the image has changed since.
        LaunchError: QEMU refuses the saved state.
    """
    require_terminal()
    if factory.image.sha256 != kept.facts.key["image"]:
        raise CallerError(f"--kept: the image {factory.image.path} has changed since the machine was saved",
                          hint="restore the image that the machine was booted from")
    spec = MachineSpec(name="kept-machine", state=InitialState.OFF, layers=kept.layers, instance=kept.facts.instance,
                       memory=kept.memory)  # fmt: skip
    with factory.create(spec) as machine:
        try:
            machine.resume(kept.facts.access, access_method=kept.facts.access_method,
                           shell_after=kept.facts.shell_after)
            machine.run(console_shell_script(), check=False)
        except (GuestFailure, NotJudged) as error:
            print(f"no shell: {printable(str(error))}\r")
        attach(machine)


def require_terminal() -> None:
    """Raises CallerError unless standard input is a terminal."""
    if not sys.stdin.isatty():
        raise CallerError("stdin is not a terminal", hint="run it at a terminal, or use pytest")


def attach(machine: Machine) -> None:
    """Connects the console of a started machine to the terminal until either ends."""
    print(f"{machine.instance.id} powers on; {HELP}\r")
    with _raw(sys.stdin.fileno()) as modes:
        screen = TerminalFilter()
        machine.boot.transcript.mirror_to(lambda data: _show(screen.feed(data)))
        Keyboard(machine.boot, modes).forward()
    print(f"\r\nthe transcript is in {machine.records}")


class Keyboard:
    """Sends the user's keys to a console; `modes` are those of the terminal before it was set to raw."""

    def __init__(self, boot: Boot, modes: list[object]) -> None:
        self._boot = boot
        self._modes = modes

    def forward(self) -> None:
        """Sends keys until the user leaves; raises the reason if the machine ends first."""
        keyboard = sys.stdin.fileno()
        while True:
            wait_for_ready(None, keyboard, self._boot.liveness)
            self._boot.liveness.check()
            keys = os.read(keyboard, 4096)
            if not keys or not self.type(keys):
                return

    def type(self, keys: bytes) -> bool:
        """Sends these keys; returns False if the user leaves."""
        for part in split_keys(keys):
            if part == bytes([LEAVE]):
                return False
            if part == bytes([MONITOR]):
                self._run_monitor_command()
            else:
                self._boot.transcript.send(part)
        return True

    def _run_monitor_command(self) -> None:
        """Reads one line, sends it to QEMU's human monitor, and shows the answer; Ctrl-D and Ctrl-C send nothing."""
        line = ""
        with _lines(sys.stdin.fileno(), self._modes), contextlib.suppress(EOFError, KeyboardInterrupt):
            line = input("\n(qemu) ")
        try:
            answer = self._boot.execute("human-monitor-command", {"command-line": line}) if line.strip() else ""
        except TestbedError as error:
            answer = error.one_line
        _show(printable(str(answer)).replace("\n", "\r\n").encode())


def split_keys(keys: bytes) -> Iterator[bytes]:
    """Yields the keys in order: each special key by itself, and the guest's keys between them together."""
    typed = bytearray()
    for key in keys:
        if key not in (LEAVE, MONITOR):
            typed.append(key)
            continue
        if typed:
            yield bytes(typed)
            typed.clear()
        yield bytes([key])
    if typed:
        yield bytes(typed)


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[list[object]]:
    """Sets the terminal to raw; yields the modes that it had, and restores them."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield before
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _lines(terminal: int, modes: list[object]) -> Iterator[None]:
    """Restores line editing and echo for the duration of the block."""
    termios.tcsetattr(terminal, termios.TCSADRAIN, modes)  # type: ignore[arg-type]
    try:
        yield
    finally:
        tty.setraw(terminal)
