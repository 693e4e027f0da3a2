"""The machine: the one object through which a test uses an instance."""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lifsea_testbed.console import user_data as user_data_scripts
from lifsea_testbed.console.channel import Channel
from lifsea_testbed.disk.image import Image
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import Metadata, MetadataRequest
from lifsea_testbed.ecs.metadata_faults import NO_FAULTS, MetadataFaults
from lifsea_testbed.errors import (
    BootFailed,
    ChannelError,
    CommandFailed,
    EmulatorFailed,
    Explained,
    GuestCrashed,
    GuestFailure,
    LaunchError,
    MachineStarved,
    NotJudged,
    WaitTimedOut,
)
from lifsea_testbed.guest import offline
from lifsea_testbed.guest.guest import Guest, SubjectFactory
from lifsea_testbed.machine import coming_up, diagnosis
from lifsea_testbed.machine.access import ConsoleAccess
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.machine.fidelity import HardwareFidelity
from lifsea_testbed.machine.network import MachineNetwork
from lifsea_testbed.machine.postmortem import Postmortem, Records
from lifsea_testbed.profiles.profile import AccessMethod, AccessSection, ChannelDevice, Profile
from lifsea_testbed.qemu import command_line
from lifsea_testbed.qemu.instruction_counter import Counter
from lifsea_testbed.qemu.storage import HeldDisks, Layers, MemoryFile
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.deadline import Deadline, TimeScale
from lifsea_testbed.support.protocols import QUESTION, CommandResult
from lifsea_testbed.support.redact import Redactor
from lifsea_testbed.support.sanitize import first_line, printable
from lifsea_testbed.support.steps import step

T = TypeVar("T")
#: How long a machine may take to shut down, and an attached disk to appear in it (seconds on real hardware).
_SHUTTING_DOWN, _ATTACHING = 30.0, 10.0
#: How long the shell of a resumed machine, which is at its prompt, may take to answer (seconds on the host).
_RESUMING = 30.0
#: The number of attempts to power on a machine on a host that is too busy for it.
_POWER_ONS = 3


class Machine:
    """An instance with a disk of its own above the image; it can be powered on, rebooted, queried and changed.

    `guest` answers questions about the operating system, `network` has the connections, `fidelity` the limits of the
    hardware. `directory` holds files that are removed with the machine, `records` those that stay: the transcript of
    each boot, the journal, the commands that were run, QEMU's command line and monitor log, the requests to the
    metadata service, and after a failure the screen; secrets are redacted in all of them. `restored_in` is the time
    from a snapshot on disk to a machine that answers (seconds), or None if it was booted; `recording_time` is that of
    all reading of journals for the records (seconds).
    """

    def __init__(self, *, hardware: command_line.HardwareSpec, image: Image, profile: Callable[[], Profile],
                 time_scale: TimeScale, directory: Path, records: Path, confinement: Confinement,
                 user_data: bytes | None = None, layers: Layers | None = None, memory: MemoryFile | None = None,
                 dump_memory: bool = False, counter: Counter | None = None,
                 access_methods: Mapping[str, ConsoleAccess] | None = None,
                 guest_subjects: Mapping[str, SubjectFactory] | None = None,
                 faults: MetadataFaults = NO_FAULTS) -> None:
        self.instance: Instance = hardware.instance
        self.records = records
        self.guest = Guest(self, profile, subjects=guest_subjects or {}, time_scale=time_scale,
                           own_files=lambda: user_data_scripts.own_files(self.access_method))  # fmt: skip
        self.fidelity = HardwareFidelity.of(hardware)
        self.boot_id = ""
        self.shell_after = self.recording_time = 0.0
        self.restored_in: float | None = None
        self.access_method: str = AccessMethod.NONE
        self.boots: list[Boot] = []
        self._hardware = hardware
        self.image = image
        self._profile, self._time_scale = profile, time_scale
        self._access_methods = access_methods or {}
        self._confinement = confinement
        self._layers = layers or Layers()
        self._counter = counter
        self._memory, self._resumed = memory, False
        self._overlay = self._layers.overlay or directory / "overlay.qcow2"
        secrets = [line for line in printable(user_data or b"").split("\n") if not line.startswith("#")]
        if user_data is None:
            user_data = user_data_scripts.user_data(command_line.CHANNEL_PORT, self.access)
        self.metadata = Metadata(self.instance, user_data=user_data,
                                 token_required=faults.token_required or profile().metadata.token == "required")
        self._redactor = Redactor(lambda: [*secrets, profile().access.password, *self.metadata.tokens])
        self._records = Records(records, self._redactor)
        self._postmortem = Postmortem(records=self._records, image=image, directory=directory,
                                      overlay=None if self._layers.below else self._overlay, dump_memory=dump_memory)
        directory.chmod(0o711)
        self._disks = HeldDisks(self._overlay, directory / "data.raw", image_size=image.virtual_size,
                                data_disk=hardware.instance.data_disk, variables=self._layers.variables)  # fmt: skip
        self.network = MachineNetwork(self.metadata, directory / "services", confinement, faults=faults,
                                      serves_time=hardware.has_hub)  # fmt: skip

    @property
    def boot(self) -> Boot:
        """The current boot, or the last one."""
        return self.boots[-1]

    @property
    def access(self) -> AccessSection:
        """The section of the profile with the ways to its root shell."""
        return self._profile().access

    @property
    def disks(self) -> tuple[Path, ...]:
        """The layers (qcow2) of its disk above the image, the lowest first."""
        return *self._layers.below, self._overlay

    @property
    def memory_file(self) -> Path | None:
        """The file that holds its memory, if it has one of its own."""
        is_own = self._memory is not None and not self._memory.copied and len(self.boots) == 1
        return self._memory.path if self._memory and is_own else None

    @property
    def requests(self) -> list[MetadataRequest]:
        """The requests to the metadata service, over all boots."""
        return list(self.metadata.requests)

    @step("power on")
    def power_on(self) -> None:
        """Powers on and returns when the root shell is open.

        Powers on again if the guest's timer did not tick, or QEMU failed, before the guest wrote to its disk.

        Raises:
            BootFailed: no shell opened in time, or the guest stopped for want of a timer at each attempt.
            GuestCrashed: a line of the console, or an event of QEMU, shows that the guest will never come up.
            LaunchError: QEMU did not start.
            MachineStarved: the host was too busy at each attempt.
            EmulatorFailed: QEMU failed.
        """
        ends: list[Explained] = []
        while True:
            self.start()
            try:
                with coming_up.watch(self.boot, lambda: bool(self.requests)):
                    self._await_shell()
                return
            except (MachineStarved, EmulatorFailed) as error:
                ends.append(error)
                if len(ends) == _POWER_ONS or not self.boot.disk_is_untouched:
                    raise diagnosis.of_attempts(ends, is_starved=self.boot.is_starved) from None
                self.boots.pop().close()
                self._disks.put_back()

    def start(self) -> None:
        """Powers on and returns at once, while the firmware starts.

        Raises:
            LaunchError: QEMU did not start.
        """
        def log(line: str) -> None:
            self._records.append(f"qmp-{number}.txt", f"[{time.monotonic() - boot.power_on:9.3f}] {line}\n")

        number = len(self.boots) + 1
        boot = Boot(self._hardware, image=self.image, disks=self._disks, directory=self.network.directory,
                    transcript=self.records / f"transcript-{number}.txt", confinement=self._confinement,
                    with_virtio_console=self._profile().access.line is ChannelDevice.VIRTIO, layers=self._layers,
                    memory=None if self.boots else self._memory, redactor=self._redactor, log=log,
                    counter=self._counter, access_methods=self._access_methods)  # fmt: skip
        self.boots.append(boot)
        self._records.append("qemu-argv.txt", f"{shlex.join(boot.command)}\n")
        boot.start(self.network.nics)
        self.network.connect(boot)

    def resume(self, access: AccessSection, *, access_method: str, shell_after: float,
               first: Callable[[Channel], object] = lambda channel: None) -> None:
        """Resumes from the saved state beside its memory, calls `first` with the channel, and waits for the shell.

        Raises:
            LaunchError: QEMU did not start, or refused the state.
            WaitTimedOut: the shell does not answer.
        """
        self._resumed = True
        self.start()
        self.access_method, self.shell_after = access_method, shell_after
        self.boot_id = self.boot.attach_channel(access_method, access, Deadline.after(_RESUMING), first)

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = QUESTION,
            input: bytes = b"") -> CommandResult:
        """Runs a script of the POSIX shell, or the words of one command, as root.

        `within` is in seconds on real hardware; `input` is the command's standard input, of any bytes.

        Raises:
            CommandFailed: its exit status was not 0, and `check` is set.
            WaitTimedOut: it exceeded `within` and was killed; the shell stays usable.
            GuestCrashed, LaunchError: the machine ended meanwhile.
            HostError: the guest does not answer because QEMU does not run it, by the host's fault.
        """
        script = command if isinstance(command, str) else shlex.join(command)
        words, started = first_line(script), time.monotonic() - self.boot.power_on
        deadline = self._time_scale.deadline(within)
        try:
            with step(f"run: {words}"):
                result = self.boot.channel.run(script, input=input, deadline=deadline)
        except WaitTimedOut as error:
            raise self.boot.diagnose_silence(deadline.allowance) or error from error
        ended = f"{result.exit_status:3d} {result.duration:7.3f} s"
        self._records.append("commands.txt", f"[{started:9.3f}] {ended}  {words}\n")
        if check and not result.ok:
            raise CommandFailed(f"status {result.exit_status} from: {words}", evidence=result.stderr[-2000:])
        return result

    def wait_until(self, question: Callable[[], T], what: str, *, within: float, every: float = 0.2) -> T:
        """Calls `question` until its result is true, and returns the result; `what` names the wait in errors.

        `within` and `every`, the interval, are in seconds; `within` is scaled to the accelerator.

        Raises:
            WaitTimedOut: it did not become true; the evidence is the console. HostError: QEMU did not run the guest.
        """
        deadline = self._time_scale.deadline(within)
        while not (answer := question()):
            if deadline.expired:
                raise self.boot.overdue(
                    f"{what}: not within {deadline.allowance:.0f} s; last answer {answer!r}", deadline)
            self.boot.liveness.pause(every, deadline)
        return answer

    def wait_until_ready(self) -> None:
        """Waits until every unit is up; without a shell or without systemd there is nothing to wait for.

        Raises:
            BootFailed: systemd did not finish the boot in time.
        """
        within = self._profile().boot.ready_within
        try:
            self.wait_until(self.guest.units.are_started, "systemd finishes the boot", within=within)
        except NotJudged:
            return
        except WaitTimedOut as error:
            raise BootFailed(error.happened, expected="a finished boot", evidence=error.evidence) from error

    @step("reboot")
    def reboot(self) -> None:
        """Reboots by the guest's own command and returns when the shell is open again.

        The guest's reset ends QEMU, and a new QEMU powers on the same disk: to firmware and kernel it is a cold boot.

        Raises:
            WaitTimedOut: the guest did not shut down.
            BootFailed, GuestCrashed: it did not come up.
        """
        self._shut_down("reboot")
        self._power_cycle()

    @step("power cut")
    def power_cut(self) -> None:
        """Cuts the power between two instructions, restores it, and returns when the shell is open again.

        The disk keeps each write that the guest saw completed, flushed or not; powercut covers the losses of a cache.

        Raises:
            BootFailed, GuestCrashed: it did not come up.
        """
        self._power_cycle()

    @step("power off")
    def power_off(self) -> None:
        """Powers off by the guest's own command, and returns when the machine is off.

        Raises:
            WaitTimedOut: the guest did not shut down.
        """
        self._shut_down("poweroff")

    @step("crash")
    def crash(self) -> None:
        """Makes the guest's kernel panic, and returns when the shell is open again after a cold boot.

        Raises:
            GuestFailure: the kernel did not panic.
            BootFailed, GuestCrashed: it did not come up.
        """
        try:
            self.run("sync; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger", check=False)
        except GuestCrashed:
            self._power_cycle()
        else:
            raise GuestFailure("the kernel did not panic", expected="a panic after `echo c >/proc/sysrq-trigger`",
                               evidence=self.boot.transcript.tail())  # fmt: skip

    def append_user_data(self, script: bytes) -> None:
        """Appends a script to the user-data; it runs after the test bed's own script."""
        self.metadata.append_user_data(script)

    def attach_disk(self, image: Image) -> str:
        """Attaches an image as a read-only data disk to the running machine; returns its name in the guest's /dev."""
        serial = self.boot.attach_disk(image)
        return self.wait_until(lambda: self.guest.disks.by_serial().get(serial, ""), "the attached disk appears",
                               within=_ATTACHING)  # fmt: skip

    def save_records(self, *, journal: bool = True) -> None:
        """Records the journal, if it can still be read, and the requests to the metadata service."""
        if journal:
            self._save_journal()
        start = self.boots[0].power_on if self.boots else 0.0
        requests = "".join(f"[{request.at - start:9.3f}] {request.method} {request.path} {request.status}"
                           f"{' token' if request.with_token else ''}\n" for request in self.requests)  # fmt: skip
        self._records.write("metadata-requests.txt", requests + self.network.bounds_reached())

    def collect_postmortem(self) -> None:
        """Records everything that can still be collected of a machine that failed; a dead one is powered off first.

        missing.txt lists the records that could not be collected, with the reasons.
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
        self._disks.close()

    def _shut_down(self, command: str) -> None:
        self._save_journal()
        self.boot.liveness.expect_end()
        deadline = self._time_scale.deadline(_SHUTTING_DOWN)
        try:
            self.run(f"systemctl --no-block {command} || {command}")
        except (ChannelError, LaunchError):  # a fast guest may be off, or its shell ended, before its answer was sent
            if not self.boot.wait_until_off(deadline):
                raise
        if not self.boot.wait_until_off(deadline):
            raise self.boot.overdue(f"the guest did not shut down within {deadline.allowance:.0f} s", deadline)

    def _power_cycle(self) -> None:
        before = self.boot_id
        self.boot.close()
        self.power_on()
        if before and self.boot_id == before:
            raise GuestFailure("the boot id is the same after a boot", expected="a new random id", evidence=before)

    def _await_shell(self) -> None:
        access = self._profile().access
        for method in access.methods:
            self.access_method = method
            if method == AccessMethod.NONE:
                self._await_ready_sign()
                return
            deadline = self._time_scale.deadline(self._profile().boot.shell_within)
            try:
                self.boot_id = self.boot.open_shell(method, access, deadline)
            except WaitTimedOut:
                continue
            self.shell_after = time.monotonic() - self.boot.power_on
            return
        raise self.boot.diagnose_silence(time.monotonic() - self.boot.power_on) or coming_up.no_shell(
            self.boot, access.methods, self.requests)

    def _await_ready_sign(self) -> None:
        """Waits for the console line of the profile, or for an answer of Cloud Assistant where there is none."""
        self.boot.disable_shell()
        self.guest = self.guest.without_shell(functools.cache(lambda: offline.read(self.image)))
        wanted, deadline = self._profile().boot.ready_line, self._time_scale.deadline(self._profile().boot.shell_within)
        is_up = self.boot.transcript.wait_for_prompt(re.compile(wanted), 0, deadline) if wanted \
            else self.boot.assistant.answers(deadline)  # fmt: skip
        if not is_up:
            missing = f"no console line matched {wanted!r}" if wanted else "Cloud Assistant did not answer on its port"
            raise self.boot.diagnose_silence(deadline.allowance) or coming_up.failed(self.boot, missing,
                                                                                     "a sign that the system is up")
        self.shell_after = time.monotonic() - self.boot.power_on

    def _save_journal(self) -> None:
        if not self.boots or self.boot.liveness.ended or not self.boot_id:
            return
        started = time.monotonic()
        with contextlib.suppress(Exception):
            self._records.write(f"journal-{len(self.boots)}.txt", self.guest.system.journal())
        self.recording_time += time.monotonic() - started
