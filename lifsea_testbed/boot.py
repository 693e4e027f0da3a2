"""One boot: from power-on until power-off, with everything that is attached to it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

from lifsea_testbed.console.channel import Channel
from lifsea_testbed.console.transcript import Transcript
from lifsea_testbed.deadline import Deadline
from lifsea_testbed.errors import Explained, GuestCrashed, LaunchError
from lifsea_testbed.image import Image
from lifsea_testbed.lifeline import Lifeline
from lifsea_testbed.qemu import argv
from lifsea_testbed.qemu.confinement import Confinement
from lifsea_testbed.qemu.process import QemuProcess
from lifsea_testbed.qemu.qmp import Event, Monitor

#: How long QEMU may take from its start to its greeting (seconds; it depends on the host alone).
_GREETING = 30.0
#: After an event that says that the guest is down, its last console lines are let in for this long (seconds).
_LAST_WORDS = 0.3


class Boot:
    """A machine that is powered on: the process, its monitor, its transcript, the channel to its shell.

    Every wait on any of them ends at once when the machine does. Leave the context, or call `close`, and all is gone.
    """

    def __init__(self, hardware: argv.Hardware, *, image: Image, overlay: Path, directory: Path, transcript: Path,
                 confinement: Confinement) -> None:
        self.lifeline = Lifeline()
        self.events: list[Event] = []
        self.power_on = time.monotonic()
        with contextlib.ExitStack() as handed_over:
            ours, theirs = _pairs(handed_over)
            wires = argv.Wires(**theirs, image=_opened(handed_over, image.path, os.O_RDONLY),
                               overlay=_opened(handed_over, overlay, os.O_RDWR))
            self.command = argv.command(hardware, wires)
            self.transcript = Transcript(ours["console"], lifeline=self.lifeline, file=transcript)
            self.channel = Channel(ours["channel"], lifeline=self.lifeline)
            self.monitor = Monitor(ours["monitor"], on_event=self._on_event)
            self.process = QemuProcess(self.command, directory=directory, inherit=_numbers(wires),
                                       confinement=confinement, on_exit=self._on_exit)

    def start(self) -> None:
        """Lets the machine execute its first instruction, and starts its clock.

        Raises:
            LaunchError: QEMU refused its arguments or died.
        """
        try:
            self.monitor.connect(Deadline.after(_GREETING))
        except LaunchError:
            if self.process.wait(1.0):
                raise self.process.death() from None
            raise
        self.power_on = time.monotonic()
        self.transcript.start(self.power_on)
        self.execute("cont")

    def execute(self, name: str, arguments: dict[str, object] | None = None) -> Any:
        """Executes a monitor command and returns what it returned."""
        self.lifeline.check()
        return self.monitor.execute(name, arguments, deadline=Deadline.after(_GREETING))

    def wait_until_off(self, deadline: Deadline) -> bool:
        """Waits for a machine that was told to go down, and returns whether it did."""
        return self.process.wait(deadline.remaining)

    def close(self) -> None:
        """Cuts the power and gives everything back; a second time does nothing."""
        self.lifeline.expect_end()
        self.process.kill()
        self.transcript.close()
        self.channel.close()
        self.monitor.close()

    def _on_exit(self, process: QemuProcess) -> None:
        if self.lifeline.end_is_expected:
            self.lifeline.end(lambda: LaunchError("the machine is off"))
        else:
            self.lifeline.end(process.death)

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        if event.name == "GUEST_PANICKED":
            self._end("the guest's kernel panicked")
        elif event.name == "SHUTDOWN" and event.data.get("guest") and not self.lifeline.end_is_expected:
            self._end(f"the guest went down by itself ({event.data.get('reason')})")

    def _end(self, happened: str) -> None:
        seen = time.monotonic()

        def reason() -> Explained:
            time.sleep(max(0.0, seen + _LAST_WORDS - time.monotonic()))
            return GuestCrashed(happened, evidence=self.transcript.tail())

        self.lifeline.end(reason)


def _pairs(handed_over: contextlib.ExitStack) -> tuple[dict[str, socket.socket], dict[str, int]]:
    """Socket pairs: our ends, and the numbers of QEMU's ends, which are closed here once QEMU has them."""
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, int] = {}
    for name in ("monitor", "console", "channel"):
        ours[name], end = socket.socketpair()
        handed_over.callback(end.close)
        theirs[name] = end.fileno()
    return ours, theirs


def _opened(handed_over: contextlib.ExitStack, path: Path, mode: int) -> int:
    descriptor = os.open(path, mode | os.O_CLOEXEC)
    handed_over.callback(os.close, descriptor)
    return descriptor


def _numbers(wires: argv.Wires) -> tuple[int, ...]:
    return (wires.monitor, wires.console, wires.channel, wires.image, wires.overlay)
