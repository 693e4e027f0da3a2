"""One boot: from power-on until power-off, with everything that is attached to it."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifsea_testbed.console.channel import Channel, NoChannel, PortChannel
from lifsea_testbed.console.cloud_assistant import CloudAssistant
from lifsea_testbed.console.fatal_lines import Suspicion
from lifsea_testbed.console.login import interrupt, type_agent
from lifsea_testbed.console.serial_channel import SerialChannel, ShellPlace
from lifsea_testbed.console.transcript import Measured, Transcript
from lifsea_testbed.disk.image import Image
from lifsea_testbed.ecs.instance import NetworkInterface
from lifsea_testbed.errors import (
    EmulatorFailed,
    Explained,
    GuestCrashed,
    HostError,
    LaunchError,
    TestbedError,
    WaitTimedOut,
)
from lifsea_testbed.machine import descriptors, diagnosis
from lifsea_testbed.machine.access import ConsoleAccess, console_access
from lifsea_testbed.profiles.profile import OPENED_BY_USER_DATA, AccessSection, ChannelDevice
from lifsea_testbed.qemu import command_line, limits
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.instruction_counter import Counter, Tally
from lifsea_testbed.qemu.process import QemuProcess
from lifsea_testbed.qemu.qmp import Event, EventName, Monitor
from lifsea_testbed.qemu.storage import HeldDisks, Layers, MemoryFile
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.liveness import Liveness
from lifsea_testbed.support.redact import Redactor

#: How long QEMU may take from its start to its greeting, and for a command (seconds; the host alone determines it).
_GREETING = 30.0
#: A console on which no shell answers for so long (seconds) is brought to the prompt again, by the same access method.
_SHELL_ANSWERS = 30.0
#: How long reading or writing the state of the devices, some MiB, may take, and the polling interval (seconds).
_MIGRATING = 60.0
_POLLING = 0.003
#: After an event that reports the end of the guest, its last console lines are awaited for this long (seconds).
_LAST_LINES = 0.3
#: How long the last event of a QEMU that has ended may take to be read (seconds).
_LAST_EVENT = 5.0


@dataclass(frozen=True, kw_only=True)
class DiskActivity:
    """The bytes that a guest has read from its system disk, and written to it, since power-on or restore."""

    read: int
    written: int


class Boot:
    """A machine that is powered on: the process, its monitor, its transcript, the channel to its shell.

    Every wait on any of them ends at once when the machine does. `close` ends all of them.
    """

    def __init__(self, hardware: command_line.HardwareSpec, *, image: Image, disks: HeldDisks, directory: Path,
                 transcript: Path, confinement: Confinement, with_virtio_console: bool = False,
                 layers: Layers | None = None, memory: MemoryFile | None = None, redactor: Redactor | None = None,
                 log: Callable[[str], None] = lambda line: None,
                 counter: Counter | None = None,
                 access_methods: Mapping[str, ConsoleAccess] | None = None) -> None:
        self.liveness = Liveness()
        self._reactions: dict[str, Callable[[Event], None]] = {
            EventName.GUEST_PANICKED: lambda event: self._crashed("the guest's kernel panicked"),
            EventName.WATCHDOG: lambda event: self._crashed("the guest's watchdog expired"),
            EventName.SHUTDOWN: self._on_shutdown,
            EventName.BLOCK_IO_ERROR: self._on_disk_error,
            EventName.VSERPORT_CHANGE: self._on_port,
        }
        self.power_on = time.monotonic()
        self.started_at = 0
        self._saved_state = memory.state if memory else None
        self._image, self._emulated = image.path, hardware.accelerator.kind is AcceleratorKind.TCG
        self.disks = disks
        self._limits = limits.of_machine(memory=hardware.memory, cpus=hardware.instance.type.cpus,
                                         data_disk=hardware.instance.data_disk)  # fmt: skip
        redactor = redactor or Redactor()
        self._access_methods = access_methods or {}
        with contextlib.ExitStack() as inherited, contextlib.ExitStack() as made:
            made.callback(self.liveness.close)
            made.callback(self.liveness.end, lambda: LaunchError("the machine is off"))
            self.counts = Tally() if counter else None
            if self.counts is not None:
                made.callback(self.counts.close)
            names = ["monitor", "console", "assistant", "channel", *(["virtio_console"] if with_virtio_console else [])]
            ours, theirs = descriptors.socket_pairs(inherited, made, names)
            self.monitor = Monitor(ours["monitor"], on_event=self._on_event, log=log, on_failure=self._events_lost)
            made.callback(self.monitor.close)
            self.assistant = CloudAssistant(ours["assistant"], liveness=self.liveness)
            self._port = PortChannel(ours["channel"], liveness=self.liveness)
            made.callback(self._port.close)
            self.channel: Channel = self._port
            self.transcript = Transcript(ours["console"], liveness=self.liveness, file=transcript,
                                         redactor=redactor.stream(), measure=self._measure)
            self.consoles = {ChannelDevice.SERIAL: self.transcript}
            if with_virtio_console:
                hvc0 = transcript.with_name(f"hvc0-{transcript.name}")
                self.consoles[ChannelDevice.VIRTIO] = Transcript(
                    ours["virtio_console"], liveness=self.liveness, file=hvc0, redactor=redactor.stream(),
                    measure=self._measure)  # fmt: skip
            for console in self.consoles.values():
                made.callback(console.close)
            numbers = command_line.Descriptors(
                **theirs, image=descriptors.opened(inherited, image.path, os.O_RDONLY),
                overlay=descriptors.held(inherited, disks.overlay),
                data=descriptors.held(inherited, disks.data) if disks.data else None,
                firmware=descriptors.of_firmware(inherited, hardware.firmware, disks.variables),
                counter=(counter.library, self.counts.descriptor) if counter and self.counts else None,
                **descriptors.of_layers(inherited, layers or Layers(), confinement),
                **descriptors.of_memory(inherited, memory, confinement),
            )  # fmt: skip
            self.command = command_line.command(hardware, numbers)
            self.process = QemuProcess(self.command, directory=directory, inherit=_descriptor_numbers(numbers),
                                       confinement=confinement, on_exit=self._on_exit, limits=self._limits)
            made.callback(self.process.kill)
            self._resources = made.pop_all()

    def start(self, nics: Iterable[NetworkInterface] = ()) -> None:
        """Runs the machine from its first instruction, or from its saved state, with those further NICs.

        Raises:
            LaunchError: QEMU refused its arguments or the state, or died.
        """
        try:
            self.monitor.connect(Deadline.after(_GREETING))
        except LaunchError:
            if self.process.wait(1.0):
                raise self.process.exit_error() from None
            raise
        for nic in nics:
            self.attach_nic(nic)
        self.power_on = time.monotonic()
        for console in self.consoles.values():
            console.start(self.power_on)
        if self._saved_state is not None:
            self._load(self._saved_state)
        self.disks.begin()
        self.started_at = self._timed("cont")

    @property
    def disk_is_untouched(self) -> bool:
        """Whether nothing was written to the machine's disks since this boot began; firmware writes its variables."""
        return self.disks.untouched

    def save(self, state: Path) -> int:
        """Stops the machine for good and saves the state of its devices; memory and disk are in their files already.

        Returns the time of the stop on the host (microseconds since the epoch).

        Raises:
            TestbedError: QEMU could not save the state; the machine stays stopped.
        """
        stopped_at = self._timed("stop")
        with state.open("wb") as file:
            self._migrate("migrate", file.fileno())
        return stopped_at

    def attach_nic(self, nic: NetworkInterface) -> None:
        """Attaches a NIC, before the machine runs or while it does."""
        name = f"nic-{nic.mac.replace(':', '')}"
        with nic.plug() as connection:
            self.monitor.add_socket(connection.fileno(), name, deadline=Deadline.after(_GREETING))
        # A netdev of type `stream` looks the name up on a thread without a monitor, and fails without an error.
        self.execute("netdev_add", {"type": "socket", "id": name, "fd": name})
        self.execute("device_add", {"driver": "virtio-net-pci", "id": f"{name}-device", "netdev": name, "mac": nic.mac,
                                    "romfile": "", "disable-modern": False, "disable-legacy": "off"})  # fmt: skip

    def open_shell(self, method: str, access: AccessSection, deadline: Deadline) -> str:
        """Opens a root shell by that access method, makes it the channel, and returns the boot id.

        Raises:
            WaitTimedOut: no shell opened in time.
            BootFailed: the shell at the prompt is one of the initramfs, which did not mount the system.
            GuestCrashed, LaunchError: the machine ended first.
            ProfileRefused: there is no such access method.
        """
        if method in OPENED_BY_USER_DATA:
            return self.attach_channel(method, access, deadline)
        bring_to_prompt = console_access(method, self._access_methods)
        console, channel = self._use_console(access)
        at_prompt = False
        while True:
            try:
                if not at_prompt:
                    bring_to_prompt(console, access, deadline)
                at_prompt = False
                place = channel.wait_for_shell(deadline.at_most(_SHELL_ANSWERS))
                if place is ShellPlace.INITRAMFS:
                    raise diagnosis.in_initramfs(method, console.tail())
                at_prompt = True
                type_agent(console, access)
                return channel.greet(deadline.at_most(_SHELL_ANSWERS))
            except WaitTimedOut:
                if deadline.expired:
                    raise
                interrupt(console)

    def attach_channel(self, method: str, access: AccessSection, deadline: Deadline,
                       first: Callable[[Channel], object] = lambda channel: None) -> str:
        """Makes a shell that opens by itself, or is open already, the channel, and returns the boot id.

        `first` is called with the channel before the shell is greeted.

        Raises:
            WaitTimedOut: no shell answered in time.
            GuestCrashed, LaunchError: the machine ended first.
        """
        if method in OPENED_BY_USER_DATA and access.line is ChannelDevice.PORT:
            self.channel = self._port
        else:
            self._use_console(access)
        first(self.channel)
        return self.channel.greet(deadline)

    def _use_console(self, access: AccessSection) -> tuple[Transcript, SerialChannel]:
        console = self.consoles[access.console]
        self.channel = channel = SerialChannel(console, liveness=self.liveness)
        console.set_frame_handler(channel.on_frame)
        return console, channel

    def disable_shell(self) -> None:
        """Makes every command to the guest raise *not judged*."""
        self.channel = NoChannel()

    def execute(self, name: str, arguments: dict[str, object] | None = None) -> Any:
        """Executes a monitor command and returns its result."""
        self.liveness.check()
        return self.monitor.execute(name, arguments, deadline=Deadline.after(_GREETING))

    def attach_disk(self, image: Image) -> str:
        """Attaches an image as a read-only data disk, and returns its serial number, as the guest sees it."""
        node, serial = f"data-{os.urandom(4).hex()}", os.urandom(10).hex()
        with image.path.open("rb") as file:
            name = self.monitor.add_descriptor(file.fileno(), deadline=Deadline.after(_GREETING))
        self.execute("blockdev-add", {
            "driver": "throttle", "node-name": node, "read-only": True, "throttle-group": command_line.THROTTLE_GROUP,
            "file": {**image.driver, "read-only": True,
                     "file": {"driver": "file", "filename": name, "read-only": True, "auto-read-only": False}},
        })  # fmt: skip
        self.execute("device_add", {
            "driver": "virtio-blk-pci", "drive": node, "serial": serial, "id": node,
            "disable-modern": False, "disable-legacy": "off",
        })  # fmt: skip
        return serial

    @property
    def bytes_written(self) -> int:
        """The bytes that the guest has written to its system disk since it was powered on or restored."""
        return self.disk_activity.written

    @property
    def disk_activity(self) -> DiskActivity:
        """What the guest has read from its system disk, and written to it."""
        stats = [device["stats"] for device in self.execute("query-blockstats")
                 if command_line.SYSTEM_DISK in device.get("qdev", "")]  # fmt: skip
        return DiskActivity(read=sum(int(each["rd_bytes"]) for each in stats),
                            written=sum(int(each["wr_bytes"]) for each in stats))  # fmt: skip

    @property
    def is_starved(self) -> bool:
        """Whether the host withheld the processor from QEMU for a third of the last minute, or of its life."""
        return diagnosis.is_starved(self.process)

    def diagnose_silence(self, waited: float) -> Explained | None:
        """Returns why the guest did nothing for so long (s) if QEMU does not run it, or the host was too busy."""
        return diagnosis.silence(self.monitor, self.process, self.transcript, emulated=self._emulated, waited=waited)

    def overdue(self, happened: str, deadline: Deadline) -> Explained:
        """Returns the error of a wait for the guest that came to its deadline."""
        return self.diagnose_silence(deadline.allowance) or WaitTimedOut(happened, evidence=self.transcript.tail())

    def wait_until_off(self, deadline: Deadline) -> bool:
        """Waits for a machine that is shutting down, and returns whether it is off.

        Raises:
            EmulatorFailed: QEMU ended by a fault of its own.
        """
        is_off = self.process.wait(deadline.remaining)
        if is_off and isinstance(error := self.process.exit_error(), EmulatorFailed):
            raise error
        return is_off

    def close(self) -> None:
        """Cuts the power and releases every resource, even if one of them fails; a second call does nothing.

        Raises:
            HostError: the host's kernel does not end QEMU.
        """
        self.liveness.expect_end()
        self._resources.close()

    def _measure(self, suspicion: Suspicion) -> Measured:
        return diagnosis.measured(self.monitor, self.process, suspicion, emulated=self._emulated)

    def _timed(self, command: str) -> int:
        """Executes a command and returns its time, halfway to the answer (microseconds since the epoch)."""
        before = time.time_ns()
        self.monitor.execute(command, deadline=Deadline.after(_GREETING))
        return (before + time.time_ns()) // 2000

    def _load(self, state: Path) -> None:
        try:
            with state.open("rb") as file:
                self._migrate("migrate-incoming", file.fileno())
        except LaunchError:
            if self.process.wait(1.0):
                raise self.process.exit_error() from None
            raise

    def _migrate(self, command: str, descriptor: int) -> None:
        """Writes the state to an open file or reads it from there, without the memory, and waits for completion.

        The mode is the one for a state that this host loads again: QEMU's drivers of VHD, VHDX and VMDK allow no other
        (qapi/migration.json, MigMode).
        """
        deadline = Deadline.after(_MIGRATING)
        execute = functools.partial(self.monitor.execute, deadline=deadline)
        execute("migrate-set-capabilities", {"capabilities": [{"capability": "x-ignore-shared", "state": True}]})
        execute("migrate-set-parameters", {"mode": "cpr-reboot"})
        execute(command, {"uri": f"file:{self.monitor.add_descriptor(descriptor, deadline=deadline)}"})
        while (status := execute("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled") or deadline.expired:
                raise LaunchError(f"QEMU did not finish {command}: status {status}", evidence=self.process.stderr(),
                                  expected=f"completed within {deadline.allowance:.0f} s")  # fmt: skip
            self.process.wait(_POLLING)

    def _on_exit(self, process: QemuProcess) -> None:
        if self.liveness.end_is_expected:
            self.liveness.end(lambda: LaunchError("the machine is off"))
            return
        if process.ended_well:  # because the guest went down, as an event says that may not have been read yet
            self.liveness.wait(Deadline.after(_LAST_EVENT))
        self.liveness.end(process.exit_error)

    def _on_event(self, event: Event) -> None:
        if react := self._reactions.get(event.name):
            react(event)

    def _on_shutdown(self, event: Event) -> None:
        if event.data.get("guest") and not self.liveness.end_is_expected:
            self._guest_ended(functools.partial(diagnosis.went_down, str(event.data.get("reason"))))

    def _on_disk_error(self, event: Event) -> None:
        operation, reason = str(event.data.get("operation")), str(event.data.get("reason"))
        if event.data.get("nospace"):
            error = HostError(f"the host failed to {operation} the machine's disk: the host's disk is full",
                              evidence=self.transcript.tail(), hint="free disk space, or set TMPDIR to another disk")
            self.liveness.end(lambda: error)
        elif reason == limits.TOO_LARGE:
            self.liveness.end(lambda: limits.disk_is_full(self._limits, self.transcript.tail()))
        else:
            files = [self._image, *(file.path for file in self.disks.all)]
            self.liveness.end(functools.cache(
                lambda: diagnosis.disk_error(operation, reason, files, self.transcript.tail())))

    def _on_port(self, event: Event) -> None:
        if event.data.get("id") == command_line.CHANNEL_DEVICE:
            (self._port.port_opened if event.data.get("open") else self._port.port_closed)()

    def _crashed(self, happened: str) -> None:
        self._guest_ended(lambda console: GuestCrashed(happened, evidence=console))

    def _guest_ended(self, error: Callable[[str], Explained]) -> None:
        """Ends every wait with the error that is made of the last lines of the console."""
        seen = time.monotonic()

        def reason() -> Explained:
            time.sleep(max(0.0, seen + _LAST_LINES - time.monotonic()))
            return error(self.transcript.tail())

        self.liveness.end(reason)

    def _events_lost(self, error: Exception) -> None:
        evidence = "".join(traceback.format_exception(error))
        self.liveness.end(lambda: TestbedError(f"QEMU's events are not read any more: {error!r}", evidence=evidence,
                                               expected="each event is handled"))  # fmt: skip


def _descriptor_numbers(descriptors: command_line.Descriptors) -> tuple[int, ...]:
    single = (number for number in vars(descriptors).values() if type(number) is int)
    return (*single, *descriptors.layers, *(descriptors.counter or ()), *(descriptors.firmware or ()))
