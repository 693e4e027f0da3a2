"""The machine: the one handle that a test holds."""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from lifsea_testbed.boot import Boot
from lifsea_testbed.console import access
from lifsea_testbed.console.channel import CommandResult
from lifsea_testbed.deadline import Deadline, Patience
from lifsea_testbed.ecs.instance import TIME_SERVERS, Instance
from lifsea_testbed.ecs.metadata import Metadata, Seen
from lifsea_testbed.ecs.service import MetadataService
from lifsea_testbed.errors import BootFailed, CommandFailed, GuestCrashed, GuestFailure, WaitTimedOut
from lifsea_testbed.guest import offline, system, transfer
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.shell import QUESTION
from lifsea_testbed.image import Image
from lifsea_testbed.profile import Access, Line, Profile, Road
from lifsea_testbed.qemu import argv, overlay
from lifsea_testbed.qemu.accelerator import Kind
from lifsea_testbed.qemu.confinement import Confinement
from lifsea_testbed.qemu.memory import Memory
from lifsea_testbed.qemu.overlay import Layers
from lifsea_testbed.text import printable

T = TypeVar("T")
#: How long a machine may take to go down once it was told to (seconds on real hardware).
_GOING_DOWN = 30.0
_ATTACHING = 10.0
#: How long the shell of a machine that goes on may take to answer (seconds on the host); it waited at its prompt.
_RESUMING = 30.0


class Machine:
    """An instance with a disk of its own above the image; it can be powered on, rebooted, asked and changed.

    `directory` holds what is thrown away, `records` what is kept: the transcript of each boot, the journal, the
    commands that were run, the command line of QEMU, the requests to the metadata service.
    """

    def __init__(self, *, hardware: argv.Hardware, image: Image, profile: Callable[[], Profile], patience: Patience,
                 directory: Path, records: Path, confinement: Confinement, user_data: bytes | None = None,
                 layers: Layers | None = None, memory: Memory | None = None) -> None:
        self.instance: Instance = hardware.instance
        self.records = records
        self.guest = Guest(self, profile)
        self.boot_id = ""
        self.shell_after = 0.0
        self.road = Road.NONE
        self.boots: list[Boot] = []
        self._hardware = hardware
        self.image = image
        self._profile = profile
        self._patience = patience
        self._directory = directory
        self._confinement = confinement
        self._layers = layers or Layers()
        self._memory = memory
        self._resumed = False
        self._overlay = self._layers.overlay or directory / "overlay.qcow2"
        if user_data is None:
            user_data = access.user_data(argv.CHANNEL_PORT, profile().access.line)
        metadata = Metadata(self.instance, user_data=user_data, token_required=profile().metadata.token == "required")
        overlay.create(self._overlay, image_size=image.virtual_size)
        confinement.admit(directory)
        self._service = MetadataService(metadata, directory / argv.METADATA_SOCKET)
        self._service.admit(confinement.uid, confinement.gid)
        self._service.__enter__()

    @property
    def boot(self) -> Boot:
        """The current boot, or the last one."""
        return self.boots[-1]

    @property
    def access(self) -> Access:
        """How its shell is come by."""
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
    def metadata(self) -> Metadata:
        """What answers the guest's questions to the metadata service, over all boots."""
        return self._service.metadata

    @property
    def requests(self) -> list[Seen]:
        """What the guest asked the metadata service for, over all boots."""
        return list(self._service.metadata.seen)

    @property
    def runs_at_hardware_speed(self) -> bool:
        """Whether a wall clock says something of the guest: under KVM it does, under emulation it does not."""
        return self._hardware.accelerator is Kind.KVM

    @property
    def memory(self) -> int:
        """The memory that the machine was given (MiB): its type's, or what the host had left."""
        return self._hardware.memory

    @property
    def network_queues(self) -> int:
        """How many queues of a network card can be shown on this host."""
        return argv.NETWORK_QUEUES

    @property
    def has_every_feature(self) -> bool:
        """Whether the processor can do all that an Ice Lake does: under emulation, or on an older host, it cannot."""
        return self.runs_at_hardware_speed and self._hardware.host_is_ice_lake

    @property
    def has_its_model_number(self) -> bool:
        """Whether the processor's family, model and stepping are an Ice Lake's and not those of an older host."""
        return not self.runs_at_hardware_speed or self._hardware.host_is_ice_lake

    @property
    def time_servers(self) -> tuple[str, ...]:
        """The time servers that the metadata service gives."""
        return TIME_SERVERS

    def power_on(self) -> None:
        """Powers on and returns when the root shell is open.

        Raises:
            BootFailed: no shell opened in time.
            GuestCrashed: the console, or QEMU, said that the guest will never come up.
            LaunchError: QEMU did not start.
        """
        self.start()
        self._await_shell()

    def start(self) -> None:
        """Powers on, and returns while the firmware starts.

        Raises:
            LaunchError: QEMU did not start.
        """
        boot = Boot(self._hardware, image=self.image, overlay=self._overlay, directory=self._directory,
                    transcript=self.records / f"transcript-{len(self.boots) + 1}.txt",
                    confinement=self._confinement,
                    with_virtio_console=self._profile().access.line is Line.VIRTIO, layers=self._layers,
                    memory=None if self.boots else self._memory)  # fmt: skip
        self.boots.append(boot)
        self._record("qemu-argv.txt", f"{shlex.join(boot.command)}\n")
        boot.start()

    def resume(self, access: Access, *, road: Road, shell_after: float) -> None:
        """Goes on from the state that its memory was given with, and returns when the shell answers there.

        Raises:
            LaunchError: QEMU did not start, or did not take the state.
            WaitTimedOut: the shell does not answer.
        """
        self._resumed = True
        self.start()
        self.road, self.shell_after = road, shell_after
        self.boot_id = self.boot.meet_shell(road, access, Deadline.after(_RESUMING))

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
            result = self.boot.channel.run(script, input=input, deadline=self._patience.deadline(within))
        except WaitTimedOut as error:
            raise self.boot.why_silent() or error from error
        self._record("commands.txt", f"[{started:9.3f}] {result.exit_status:3d} {result.duration:7.3f} s  "
                                     f"{_first_line(script)}\n")  # fmt: skip
        if check and not result.ok:
            raise CommandFailed(
                f"status {result.exit_status} from: {_first_line(script)}", evidence=printable(result.stderr)[-2000:]
            )
        return result

    def wait_until(self, question: Callable[[], T], what: str, *, within: float, every: float = 0.2) -> T:
        """Asks until the answer is true and returns it.

        Raises:
            WaitTimedOut: it never was; the last answer and the console's end are the evidence.
        """
        deadline = self._patience.deadline(within)
        while not (answer := question()):
            if deadline.expired:
                raise WaitTimedOut(f"{what}: not within {deadline.allowance:.0f} s; last answer {answer!r}",
                                   evidence=self.boot.transcript.tail())  # fmt: skip
            self.boot.lifeline.pause(every, deadline)
        return answer

    def wait_until_ready(self) -> None:
        """Waits until every unit is up.

        Raises:
            BootFailed: some unit failed or is still waited for.
        """
        if self.road is Road.NONE:
            return
        within = self._profile().boot.ready_within
        try:
            self.wait_until(lambda: self.guest.system_state() not in ("initializing", "starting", ""),
                            "systemd finishes the boot", within=within)  # fmt: skip
        except WaitTimedOut as error:
            raise BootFailed(error.happened, expected="a finished boot", evidence=error.evidence) from error

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

    def power_cut(self) -> None:
        """Takes the power away between two instructions, gives it back, and returns when the shell is open again.

        The disk keeps each write that the machine saw completed, flushed or not: what a cache loses is for powercut.

        Raises:
            BootFailed, GuestCrashed: it did not come up.
        """
        self._come_back()

    def power_off(self) -> None:
        """Powers off in the guest's own way, and returns when the machine is off.

        Raises:
            WaitTimedOut: the guest did not go down.
        """
        self._go_down("poweroff")

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

    def put(self, content: bytes | Path, path: str) -> None:
        """Writes a file of the guest, and compares digests; see guest/transfer.py."""
        transfer.put(self, content, path)

    def get(self, path: str, into: Path) -> None:
        """Copies a file of the guest to the host, and compares digests; see guest/transfer.py."""
        transfer.get(self, path, into)

    def put_tree(self, directory: Path, path: str) -> None:
        """Copies what is in a directory of the host into one of the guest; see guest/transfer.py."""
        transfer.put_tree(self, directory, path)

    def get_tree(self, path: str, into: Path) -> None:
        """Copies what is in a directory of the guest into one of the host; see guest/transfer.py."""
        transfer.get_tree(self, path, into)

    def attach_disk(self, image: Image) -> str:
        """Attaches an image as a read-only data disk to the running machine; returns its name in the guest's /dev."""
        serial = self.boot.attach_disk(image)
        return self.wait_until(lambda: self.guest.disks().get(serial, ""), "the attached disk appears",
                               within=_ATTACHING)  # fmt: skip

    def save_evidence(self, *, journal: bool = True) -> None:
        """Leaves the journal and the metadata requests among the records, as far as they can still be had."""
        if journal:
            self._save_journal()
        requests = "".join(f"{seen.method} {printable(seen.path)} {seen.status}{' token' if seen.with_token else ''}\n"
                           for seen in self.requests)  # fmt: skip
        (self.records / "metadata-requests.txt").write_text(requests, "utf-8")

    def close(self) -> None:
        """Cuts the power and removes everything but the records.

        A machine that was restored leaves its journal only if it is asked for: its boot is on record already.
        """
        with contextlib.suppress(OSError):
            self.save_evidence(journal=not self._resumed)
        for boot in self.boots:
            boot.close()
        self._service.__exit__()

    def _go_down(self, how: str) -> None:
        self._save_journal()
        self.boot.lifeline.expect_end()
        self.run(f"systemctl --no-block {how} || {how}")
        deadline = self._patience.deadline(_GOING_DOWN)
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
        for road in self._profile().access.roads:
            self.road = road
            if road is Road.NONE:
                self._await_sign_of_readiness()
                return
            deadline = self._patience.deadline(self._profile().boot.shell_within)
            try:
                self.boot_id = self.boot.open_shell(road, self._profile().access, deadline)
            except WaitTimedOut:
                continue
            self.shell_after = time.monotonic() - self.boot.power_on
            return
        raise self._no_shell()

    def _no_shell(self) -> BootFailed:
        roads = ", ".join(self._profile().access.roads)
        asked = ", ".join(dict.fromkeys(printable(seen.path) for seen in self.requests)) or "nothing"
        passed = time.monotonic() - self.boot.power_on
        return BootFailed(
            f"no root shell within {passed:.0f} s of power-on", expected=f"a root shell by {roads}",
            evidence=f"asked of the metadata service: {asked}\n{self.boot.transcript.tail()}",
            hint="read the transcript; an image without a shell needs a profile that says so",
        )  # fmt: skip

    def _await_sign_of_readiness(self) -> None:
        """Waits, without a shell, for the console line of the profile, or for an answer of Cloud Assistant."""
        self.boot.do_without_shell()
        self.guest.offline = functools.cache(lambda: offline.read(self.image))
        wanted, deadline = self._profile().boot.ready_line, self._patience.deadline(self._profile().boot.shell_within)
        # A prompt is a line without an end, and a sign as good as any.
        is_up = self.boot.transcript.asks(re.compile(wanted), 0, deadline) if wanted \
            else self.boot.assistant.answers(deadline)  # fmt: skip
        if not is_up:
            missing = f"no console line matched {wanted!r}" if wanted else "Cloud Assistant did not answer on its port"
            raise BootFailed(f"{missing} within {deadline.allowance:.0f} s", expected="a sign that the OS is up",
                             evidence=self.boot.transcript.tail())  # fmt: skip
        self.shell_after = time.monotonic() - self.boot.power_on

    def _save_journal(self) -> None:
        if not self.boots or self.boot.lifeline.ended or not self.boot_id:
            return
        with contextlib.suppress(Exception):
            path = self.records / f"journal-{len(self.boots)}.txt"
            path.write_text(printable(system.journal(self)), "utf-8")

    def _record(self, name: str, text: str) -> None:
        with (self.records / name).open("a", encoding="utf-8") as file:
            file.write(printable(text))


def _first_line(script: str) -> str:
    lines = script.strip().splitlines() or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … ({len(lines)} lines)"
