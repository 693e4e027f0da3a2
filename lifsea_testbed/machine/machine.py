"""The machine: the one handle that a test holds."""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lifsea_testbed.console import login
from lifsea_testbed.console.channel import Channel
from lifsea_testbed.disk.image import Image
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import Metadata, MetadataRequest
from lifsea_testbed.errors import (
    BootFailed,
    CommandFailed,
    EmulatorFailed,
    GuestCrashed,
    GuestFailure,
    TimerStarved,
    WaitTimedOut,
)
from lifsea_testbed.guest import offline
from lifsea_testbed.guest.guest import Guest, SubjectFactory
from lifsea_testbed.machine.access import ConsoleAccess
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.machine.fidelity import HardwareFidelity
from lifsea_testbed.machine.network import MachineNetwork
from lifsea_testbed.machine.postmortem import Postmortem, Records
from lifsea_testbed.profiles.profile import AccessMethod, AccessSection, ChannelDevice, Profile
from lifsea_testbed.qemu import command_line, storage
from lifsea_testbed.qemu.instruction_counter import Counter
from lifsea_testbed.qemu.storage import Layers, MemoryFile
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.deadline import Deadline, TimeScale
from lifsea_testbed.support.protocols import QUESTION, CommandResult
from lifsea_testbed.support.redact import Redactor
from lifsea_testbed.support.sanitize import first_line, printable
from lifsea_testbed.support.steps import step

T = TypeVar("T")
#: How long a machine may take to go down once it was told to (seconds on real hardware).
_GOING_DOWN = 30.0
_ATTACHING = 10.0
#: How long the shell of a machine that goes on may take to answer (seconds on the host); it waited at its prompt.
_RESUMING = 30.0
#: How often a machine is powered on before a host that does not let it come up is given up.
_POWER_ONS = 3


class Machine:
    """An instance with a disk of its own above the image; it can be powered on, rebooted, asked and changed.

    `guest` has the questions, `network` the connections, `fidelity` the limits of its hardware. `directory` holds
    files that end with the machine, `records` those that stay: the transcript of each boot, the journal, the commands
    that were run, QEMU's command line and monitor log, the requests to the metadata service, and after a failure the
    screen; secrets are redacted in all of them. `restored_in` is the time from a snapshot on disk to a machine that
    answers (seconds), or None if it was booted.
    """

    def __init__(self, *, hardware: command_line.HardwareSpec, image: Image, profile: Callable[[], Profile],
                 time_scale: TimeScale, directory: Path, records: Path, confinement: Confinement,
                 user_data: bytes | None = None, layers: Layers | None = None, memory: MemoryFile | None = None,
                 dump_memory: bool = False, counter: Counter | None = None,
                 access_methods: Mapping[str, ConsoleAccess] | None = None,
                 guest_subjects: Mapping[str, SubjectFactory] | None = None) -> None:
        self.instance: Instance = hardware.instance
        self.records = records
        self.guest = Guest(self, profile, subjects=guest_subjects or {})
        self.fidelity = HardwareFidelity.of(hardware)
        self.boot_id = ""
        self.shell_after = 0.0
        self.restored_in: float | None = None
        self.access_method: str = AccessMethod.NONE
        self.boots: list[Boot] = []
        self._hardware = hardware
        self.image = image
        self._profile = profile
        self._time_scale = time_scale
        self._access_methods = access_methods or {}
        self._directory = directory
        self._confinement = confinement
        self._layers = layers or Layers()
        self._counter = counter
        self._memory, self._resumed = memory, False
        self._overlay = self._layers.overlay or directory / "overlay.qcow2"
        given = [line for line in printable(user_data or b"").splitlines() if not line.startswith("#")]
        if user_data is None:
            has_none, port = self.access.has_no_shell, command_line.CHANNEL_PORT
            user_data = b"" if has_none else login.user_data(port, self.access.line)
        self.metadata = Metadata(self.instance, user_data=user_data,
                                 token_required=profile().metadata.token == "required")
        self._redactor = Redactor(lambda: [*given, profile().access.password, *self.metadata.tokens])
        self._records = Records(records, self._redactor)
        self._postmortem = Postmortem(records=self._records, image=image, directory=directory, confinement=confinement,
                                      overlay=None if self._layers.below else self._overlay, dump_memory=dump_memory)
        storage.create_overlay(self._overlay, image_size=image.virtual_size)
        self._data = storage.create_data_disk(directory / "data.raw", size=hardware.instance.data_disk)
        confinement.admit(directory)
        self.network = MachineNetwork(self.metadata, directory, confinement)

    @property
    def boot(self) -> Boot:
        """The current boot, or the last one."""
        return self.boots[-1]

    @property
    def access(self) -> AccessSection:
        """The section of the profile that says how to get its root shell."""
        return self._profile().access

    @property
    def disks(self) -> tuple[Path, ...]:
        """The layers (qcow2) of its disk above the image, the lowest first."""
        return *self._layers.below, self._overlay

    @property
    def memory_file(self) -> Path | None:
        """The file of its own that its memory lies in, if it has one."""
        is_own = self._memory is not None and not self._memory.copied and len(self.boots) == 1
        return self._memory.path if self._memory and is_own else None

    @property
    def requests(self) -> list[MetadataRequest]:
        """The requests to the metadata service, over all boots."""
        return list(self.metadata.requests)

    @step("power on")
    def power_on(self) -> None:
        """Powers on and returns when the root shell is open.

        Does so again if the guest's timer did not tick, or QEMU failed, before the guest wrote anything.

        Raises:
            BootFailed: no shell opened in time.
            GuestCrashed: the console, or QEMU, said that the guest will never come up.
            LaunchError: QEMU did not start.
            TimerStarved, EmulatorFailed: the host was too busy each time; QEMU failed.
        """
        for attempt in range(1, _POWER_ONS + 1):
            self.start()
            try:
                self._await_shell()
                return
            except (TimerStarved, EmulatorFailed):
                if attempt == _POWER_ONS or not self.boot.disk_is_untouched:
                    raise
                self.boots.pop().close()

    def start(self) -> None:
        """Powers on, and returns while the firmware starts.

        Raises:
            LaunchError: QEMU did not start.
        """
        def log(line: str) -> None:
            self._records.append(f"qmp-{number}.txt", f"[{time.monotonic() - boot.power_on:9.3f}] {line}\n")

        number = len(self.boots) + 1
        boot = Boot(self._hardware, image=self.image, overlay=self._overlay, directory=self._directory,
                    transcript=self.records / f"transcript-{number}.txt", confinement=self._confinement,
                    with_virtio_console=self._profile().access.line is ChannelDevice.VIRTIO, layers=self._layers,
                    memory=None if self.boots else self._memory, redactor=self._redactor, log=log, data=self._data,
                    counter=self._counter, access_methods=self._access_methods)  # fmt: skip
        self.boots.append(boot)
        self._records.append("qemu-argv.txt", f"{shlex.join(boot.command)}\n")
        boot.start(self.network.nics)
        self.network.connect(boot)

    def resume(self, access: AccessSection, *, access_method: str, shell_after: float,
               first: Callable[[Channel], object] = lambda channel: None) -> None:
        """Resumes from the state that came with its memory, calls `first` with the channel, and waits for the shell.

        Raises:
            LaunchError, WaitTimedOut: QEMU did not start, or did not take the state; the shell does not answer.
        """
        self._resumed = True
        self.start()
        self.access_method, self.shell_after = access_method, shell_after
        self.boot_id = self.boot.attach_channel(access_method, access, Deadline.after(_RESUMING), first)

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = QUESTION,
            input: bytes = b"") -> CommandResult:
        """Runs a script of the POSIX shell, or the words of one command, as root.

        `within` is in seconds on real hardware; `input` is what the command reads, and may hold any byte.

        Raises:
            CommandFailed: its status was not 0, and `check` asked for that.
            WaitTimedOut: it took too long and was killed; the next command finds the shell as ever.
            GuestCrashed, LaunchError: the machine ended meanwhile.
            HostError: the guest does not answer because the host does not run it.
        """
        script = command if isinstance(command, str) else shlex.join(command)
        started = time.monotonic() - self.boot.power_on
        try:
            with step(f"run: {first_line(script)}"):
                result = self.boot.channel.run(script, input=input, deadline=self._time_scale.deadline(within))
        except WaitTimedOut as error:
            raise self.boot.diagnose_silence() or error from error
        self._records.append("commands.txt", f"[{started:9.3f}] {result.exit_status:3d} {result.duration:7.3f} s  "
                             f"{first_line(script)}\n")  # fmt: skip
        if check and not result.ok:
            raise CommandFailed(
                f"status {result.exit_status} from: {first_line(script)}", evidence=printable(result.stderr)[-2000:]
            )
        return result

    def wait_until(self, question: Callable[[], T], what: str, *, within: float, every: float = 0.2) -> T:
        """Asks until the answer is true and returns it.

        Raises:
            WaitTimedOut: it never was; the last answer and the console's end are the evidence.
        """
        deadline = self._time_scale.deadline(within)
        while not (answer := question()):
            if deadline.expired:
                raise WaitTimedOut(f"{what}: not within {deadline.allowance:.0f} s; last answer {answer!r}",
                                   evidence=self.boot.transcript.tail())  # fmt: skip
            self.boot.liveness.pause(every, deadline)
        return answer

    def wait_until_ready(self) -> None:
        """Waits until every unit is up.

        Raises:
            BootFailed: some unit failed or is still waited for.
        """
        if self.access_method == AccessMethod.NONE:
            return
        within = self._profile().boot.ready_within
        try:
            self.wait_until(lambda: self.guest.units.state() not in ("initializing", "starting", ""),
                            "systemd finishes the boot", within=within)  # fmt: skip
        except WaitTimedOut as error:
            raise BootFailed(error.happened, expected="a finished boot", evidence=error.evidence) from error

    @step("reboot")
    def reboot(self) -> None:
        """Reboots in the guest's own way and returns when the shell is open again.

        The guest's reset ends QEMU, and the same disk is powered on by a new one: what firmware and kernel find is
        what a cold boot finds.

        Raises:
            WaitTimedOut: the guest did not go down.
            BootFailed, GuestCrashed: it did not come up.
        """
        self._go_down("reboot")
        self._come_back()

    @step("power cut")
    def power_cut(self) -> None:
        """Takes the power away between two instructions, gives it back, and returns when the shell is open again.

        The disk keeps each write that the machine saw completed, flushed or not: what a cache loses is for powercut.

        Raises:
            BootFailed, GuestCrashed: it did not come up.
        """
        self._come_back()

    @step("power off")
    def power_off(self) -> None:
        """Powers off in the guest's own way, and returns when the machine is off.

        Raises:
            WaitTimedOut: the guest did not go down.
        """
        self._go_down("poweroff")

    @step("crash")
    def crash(self) -> None:
        """Has the guest's kernel panic, and returns when the shell is open again after a cold boot.

        Raises:
            GuestFailure: the kernel did not panic.
            BootFailed, GuestCrashed: it did not come up.
        """
        try:
            self.run("sync; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger", check=False)
        except GuestCrashed:
            self._come_back()
        else:
            raise GuestFailure("the kernel did not panic when it was asked to", expected="sysrq c panics",
                               evidence=self.boot.transcript.tail())  # fmt: skip

    def append_user_data(self, script: bytes) -> None:
        """Appends a script to the user-data; it runs after the test bed's own."""
        self.metadata.append_user_data(script)

    def attach_disk(self, image: Image) -> str:
        """Attaches an image as a read-only data disk to the running machine; returns its name in the guest's /dev."""
        serial = self.boot.attach_disk(image)
        return self.wait_until(lambda: self.guest.disks.by_serial().get(serial, ""), "the attached disk appears",
                               within=_ATTACHING)  # fmt: skip

    def save_records(self, *, journal: bool = True) -> None:
        """Records the journal and the requests to the metadata service, as far as they can still be read."""
        if journal:
            self._save_journal()
        start = self.boots[0].power_on if self.boots else 0.0
        requests = "".join(f"[{seen.at - start:9.3f}] {seen.method} {seen.path} {seen.status}"
                           f"{' token' if seen.with_token else ''}\n" for seen in self.requests)  # fmt: skip
        self._records.write("metadata-requests.txt", requests)

    def collect_postmortem(self) -> None:
        """Records everything that can still be collected of a machine that failed; a dead one is powered off for that.

        missing.txt lists what could not be collected, and why.
        """
        if not self.boots:
            return
        self.save_records()
        self._postmortem.collect(self.boot, len(self.boots))

    def close(self) -> None:
        """Cuts the power and removes everything but the records."""
        with contextlib.suppress(OSError):
            self.save_records(journal=not self._resumed)
        for boot in self.boots:
            boot.close()
        self._postmortem.finish(len(self.boots))
        self.network.close()

    def _go_down(self, how: str) -> None:
        self._save_journal()
        self.boot.liveness.expect_end()
        self.run(f"systemctl --no-block {how} || {how}")
        deadline = self._time_scale.deadline(_GOING_DOWN)
        if not self.boot.wait_until_off(deadline):
            raise WaitTimedOut(f"the guest did not go down within {deadline.allowance:.0f} s",
                               evidence=self.boot.transcript.tail())  # fmt: skip

    def _come_back(self) -> None:
        before = self.boot_id
        self.boot.close()
        self.power_on()
        if before and self.boot_id == before:
            raise GuestFailure("the boot id is the same after a boot", evidence=before)

    def _await_shell(self) -> None:
        access = self._profile().access
        for method in access.methods:
            self.access_method = method
            if method == AccessMethod.NONE:
                self._await_sign_of_readiness()
                return
            deadline = self._time_scale.deadline(self._profile().boot.shell_within)
            try:
                self.boot_id = self.boot.open_shell(method, access, deadline)
            except WaitTimedOut:
                continue
            self.shell_after = time.monotonic() - self.boot.power_on
            return
        raise self._no_shell()

    def _no_shell(self) -> BootFailed:
        methods = ", ".join(self._profile().access.methods)
        requests = ", ".join(dict.fromkeys(printable(seen.path) for seen in self.requests)) or "none"
        return self.boot.no_shell(methods, requests)

    def _await_sign_of_readiness(self) -> None:
        """Waits, without a shell, for the console line of the profile, or for an answer of Cloud Assistant."""
        self.boot.do_without_shell()
        self.guest = self.guest.without_shell(functools.cache(lambda: offline.read(self.image)))
        wanted, deadline = self._profile().boot.ready_line, self._time_scale.deadline(self._profile().boot.shell_within)
        # A prompt is a line without an end, and a sign as good as any.
        is_up = self.boot.transcript.wait_for_prompt(re.compile(wanted), 0, deadline) if wanted \
            else self.boot.assistant.answers(deadline)  # fmt: skip
        if not is_up:
            missing = f"no console line matched {wanted!r}" if wanted else "Cloud Assistant did not answer on its port"
            raise BootFailed(f"{missing} within {deadline.allowance:.0f} s", expected="a sign that the OS is up",
                             evidence=self.boot.transcript.tail())  # fmt: skip
        self.shell_after = time.monotonic() - self.boot.power_on

    def _save_journal(self) -> None:
        if not self.boots or self.boot.liveness.ended or not self.boot_id:
            return
        with contextlib.suppress(Exception):
            self._records.write(f"journal-{len(self.boots)}.txt", self.guest.system.journal())
