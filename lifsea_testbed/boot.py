"""One boot: from power-on until power-off, with everything that is attached to it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict

from lifsea_testbed.console.access import log_in, type_agent
from lifsea_testbed.console.assistant import Assistant
from lifsea_testbed.console.channel import Channel, NoChannel, PortChannel
from lifsea_testbed.console.terminal import TerminalChannel
from lifsea_testbed.console.transcript import Transcript
from lifsea_testbed.deadline import Deadline
from lifsea_testbed.errors import Explained, GuestCrashed, HostError, LaunchError, TestbedError, WaitTimedOut
from lifsea_testbed.image import Image
from lifsea_testbed.lifeline import Lifeline
from lifsea_testbed.masking import Mask
from lifsea_testbed.profile import Access, Line, Road
from lifsea_testbed.qemu import argv
from lifsea_testbed.qemu.confinement import Confinement
from lifsea_testbed.qemu.counter import Counter, Memory
from lifsea_testbed.qemu.overlay import Layers
from lifsea_testbed.qemu.process import QemuProcess
from lifsea_testbed.qemu.qmp import Event, EventName, Monitor

#: How long QEMU may take from its start to its greeting (seconds; it depends on the host alone).
_GREETING = 30.0
#: What does not answer for so long (seconds) is no shell at its prompt, and the road is taken from its start.
_SHELL_ANSWERS = 30.0
#: How long it may take to answer that it is there (seconds).
_SIGN_OF_LIFE = 2.0
#: After an event that says that the guest is down, its last console lines are let in for this long (seconds).
_LAST_WORDS = 0.3


class _Layered(TypedDict):
    layers: tuple[int, ...]
    write_log: int | None
    reads: int | None


class Boot:
    """A machine that is powered on: the process, its monitor, its transcript, the channel to its shell.

    Every wait on any of them ends at once when the machine does. Leave the context, or call `close`, and all is gone.
    """

    def __init__(self, hardware: argv.Hardware, *, image: Image, overlay: Path, directory: Path, transcript: Path,
                 confinement: Confinement, with_virtio_console: bool = False, layers: Layers | None = None,
                 counter: Counter | None = None, mask: Mask | None = None,
                 log: Callable[[str], None] = lambda line: None) -> None:
        self.lifeline = Lifeline()
        self.events: list[Event] = []
        self._subscribers: list[tuple[EventName, Callable[[Event], None]]] = [
            (EventName.GUEST_PANICKED, lambda event: self._end("the guest's kernel panicked")),
            (EventName.WATCHDOG, lambda event: self._end("the guest's watchdog ran out")),
            (EventName.SHUTDOWN, self._on_shutdown),
            (EventName.BLOCK_IO_ERROR, self._on_disk_error),
            (EventName.VSERPORT_CHANGE, self._on_port),
        ]
        self.power_on = time.monotonic()
        self.counts = Memory() if counter else None
        mask = mask or Mask()
        with contextlib.ExitStack() as handed_over:
            names = ["monitor", "console", "assistant", "channel", *(["virtio_console"] if with_virtio_console else [])]
            ours, theirs = _pairs(handed_over, names)
            wires = argv.Wires(**theirs, image=_opened(handed_over, image.path, os.O_RDONLY),
                               overlay=_opened(handed_over, overlay, os.O_RDWR),
                               counter=(counter.library, self.counts.descriptor) if counter and self.counts else None,
                               **_layered(handed_over, layers or Layers()))
            self.command = argv.command(hardware, wires)
            self.transcript = Transcript(ours["console"], lifeline=self.lifeline, file=transcript,
                                         mask=mask.stream())
            self.consoles = {Line.SERIAL: self.transcript}
            if with_virtio_console:
                beside = transcript.with_name(f"hvc0-{transcript.name}")
                self.consoles[Line.VIRTIO] = Transcript(ours["virtio_console"], lifeline=self.lifeline, file=beside,
                                                        mask=mask.stream())
            self.assistant = Assistant(ours["assistant"], lifeline=self.lifeline)
            self._port = PortChannel(ours["channel"], lifeline=self.lifeline)
            self.channel: Channel = self._port
            self.monitor = Monitor(ours["monitor"], on_event=self._on_event, log=log)
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
        for console in self.consoles.values():
            console.start(self.power_on)
        self.execute("cont")

    def open_shell(self, road: Road, access: Access, deadline: Deadline) -> str:
        """Takes that road to a root shell, makes it the channel, and returns the boot id.

        Raises:
            WaitTimedOut: no shell opened in time.
            GuestCrashed, LaunchError: the machine ended first.
        """
        if road is Road.USER_DATA and access.line is Line.PORT:
            self.channel = self._port
            return self.channel.greet(deadline)
        console = self.consoles[access.console]
        self.channel = terminal = TerminalChannel(console, lifeline=self.lifeline)
        console.give_frames_to(terminal.offer)
        if road is Road.USER_DATA:
            return terminal.greet(deadline)
        while True:
            try:
                if road is Road.LOGIN:
                    log_in(console, access, deadline)
                terminal.await_prompt(Deadline.after(min(_SHELL_ANSWERS, deadline.remaining)))
                type_agent(console, access)
                return terminal.greet(Deadline.after(min(_SHELL_ANSWERS, deadline.remaining)))
            except WaitTimedOut:
                if deadline.expired:
                    raise

    def do_without_shell(self) -> None:
        """Makes every question to the guest *not judged*."""
        self.channel = NoChannel()

    def execute(self, name: str, arguments: dict[str, object] | None = None) -> Any:
        """Executes a monitor command and returns what it returned."""
        self.lifeline.check()
        return self.monitor.execute(name, arguments, deadline=Deadline.after(_GREETING))

    def why_silent(self) -> HostError | None:
        """Returns the host's part in a guest that does not answer: QEMU does not answer either, or does not run it."""
        try:
            status = self.monitor.execute("query-status", deadline=Deadline.after(_SIGN_OF_LIFE))
        except TestbedError:
            return HostError("QEMU itself does not answer", expected="its monitor answers",
                             evidence=self.process.state(), hint="it was stopped, or the host is overloaded")
        if not status.get("running"):
            return HostError(f"the machine does not run: QEMU says {status.get('status')}",
                             expected="it runs until it is stopped on purpose", evidence=self.transcript.tail())
        return None

    def wait_until_off(self, deadline: Deadline) -> bool:
        """Waits for a machine that was told to go down, and returns whether it did."""
        return self.process.wait(deadline.remaining)

    def close(self) -> None:
        """Cuts the power and gives everything back; a second time does nothing."""
        self.lifeline.expect_end()
        self.process.kill()
        for console in self.consoles.values():
            console.close()
        self._port.close()
        self.assistant.close()
        self.monitor.close()
        if self.counts is not None:
            self.counts.close()
        self.lifeline.end(lambda: LaunchError("the machine is off"))
        self.lifeline.close()

    def _on_exit(self, process: QemuProcess) -> None:
        if self.lifeline.end_is_expected:
            self.lifeline.end(lambda: LaunchError("the machine is off"))
        else:
            self.lifeline.end(process.death)

    def subscribe(self, name: EventName, react: Callable[[Event], None]) -> None:
        """Has `react` called, on the monitor's thread, with each later event of that name."""
        self._subscribers.append((name, react))

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        for name, react in list(self._subscribers):
            if event.name == name:
                react(event)

    def _on_shutdown(self, event: Event) -> None:
        if event.data.get("guest") and not self.lifeline.end_is_expected:
            self._end(f"the guest went down by itself ({event.data.get('reason')})")

    def _on_disk_error(self, event: Event) -> None:
        reason = "the host's disk is full" if event.data.get("nospace") else str(event.data.get("reason"))
        error = HostError(f"the host failed to {event.data.get('operation')} the machine's disk: {reason}",
                          evidence=self.transcript.tail(), hint="free disk space, or set TMPDIR to another disk")
        self.lifeline.end(lambda: error)

    def _on_port(self, event: Event) -> None:
        if event.data.get("id") == argv.CHANNEL_DEVICE and not event.data.get("open"):
            self._port.port_closed()

    def _end(self, happened: str) -> None:
        seen = time.monotonic()

        def reason() -> Explained:
            time.sleep(max(0.0, seen + _LAST_WORDS - time.monotonic()))
            return GuestCrashed(happened, evidence=self.transcript.tail())

        self.lifeline.end(reason)


def _pairs(handed_over: contextlib.ExitStack, names: Iterable[str]) -> tuple[dict[str, socket.socket], dict[str, int]]:
    """Socket pairs: our ends, and the numbers of QEMU's ends, which are closed here once QEMU has them."""
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, int] = {}
    for name in names:
        ours[name], end = socket.socketpair()
        handed_over.callback(end.close)
        theirs[name] = end.fileno()
    return ours, theirs


def _opened(handed_over: contextlib.ExitStack, path: Path, mode: int) -> int:
    descriptor = os.open(path, mode | os.O_CLOEXEC)
    handed_over.callback(os.close, descriptor)
    return descriptor


def _layered(handed_over: contextlib.ExitStack, layers: Layers) -> _Layered:
    """The descriptors of what lies between image and overlay, and of the logs of writes and reads."""
    log = None if layers.write_log is None else _opened(handed_over, layers.write_log, os.O_RDWR | os.O_CREAT)
    reads = None if layers.reads is None else _opened(handed_over, layers.reads, os.O_WRONLY | os.O_CREAT)
    if reads is not None:
        os.fchmod(reads, 0o666)  # QEMU opens it once more, by /dev/fd, as the user that it is confined to
    return {"layers": tuple(_opened(handed_over, path, os.O_RDONLY) for path in layers.below), "write_log": log,
            "reads": reads}  # fmt: skip


def _numbers(wires: argv.Wires) -> tuple[int, ...]:
    single = (number for number in vars(wires).values() if isinstance(number, int))
    return (*single, *wires.layers, *(wires.counter or ()))
