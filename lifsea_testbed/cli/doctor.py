"""`lifsea-testbed doctor`: checks this host for everything that a run needs, with a remedy for each shortcoming."""

from __future__ import annotations

import argparse
import contextlib
import enum
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.ecs import instance_types as instances
from lifsea_testbed.errors import HostError
from lifsea_testbed.machine import preflight
from lifsea_testbed.qemu import accelerator as accelerators
from lifsea_testbed.qemu import command_line
from lifsea_testbed.qemu import emulator as emulators
from lifsea_testbed.qemu import firmware as firmwares
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.support import host, private_dir, reader
from lifsea_testbed.support.confinement import Isolation, confined, isolation
from lifsea_testbed.support.firmware import Firmware
from lifsea_testbed.support.host_limits import hint_for
from lifsea_testbed.support.host_packages import install_hint, reinstall_hint
from lifsea_testbed.support.programs import Ended, run_tool
from lifsea_testbed.support.sanitize import printable

_KVM = Path("/dev/kvm")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
#: The programs that build the instruction counter for emulated boots and assemble the payload of the KVM probe.
_COMPILERS = ("gcc", "as", "ld")
#: The devices of an ecs.g7, and the block drivers that throttle its disk and record writes for power cuts.
_DEVICES = ("virtio-blk-pci", "virtio-net-pci", "virtio-serial-pci", "virtio-balloon-pci", "cirrus-vga", "pvpanic")
_DRIVERS = ("blklogwrites", "throttle")
_QMP_QUIT = '{"execute": "qmp_capabilities"} {"execute": "quit"}'
#: The time that one call of QEMU may take (seconds).
_TIMEOUT = 30.0


class CheckState(enum.StrEnum):
    """The effect of a check on a run: none; slower, or some claims are not judged; no image can be run."""

    GOOD = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check: its subject, its state, the fact found, and the remedy if it is not `ok`."""

    name: str
    state: CheckState
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        """One line, and the remedy on a second one."""
        line = f"{self.state:<8} {self.name:<12} {self.found}"
        return f"{line}\n{'':<21} remedy: {self.remedy}" if self.remedy else line


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """The facts of a host: `memory` in MiB, `disk` in bytes, `sandbox_trouble` as QEMU's error when run confined."""

    emulator: Emulator | HostError
    missing_features: tuple[str, ...]
    sandbox_trouble: str
    isolation: Isolation
    reader_reaches: tuple[str, ...]
    accelerator: Accelerator | HostError
    kvm_exists: bool
    kvm_opens: bool
    memory: int
    directory: Path
    disk: int
    huge_pages: str
    compilers: tuple[str, ...]
    uefi: tuple[Firmware, ...]


def run(options: argparse.Namespace) -> None:
    """Prints the checks of this host, and the leftovers of killed runs, which --clean removes.

    Raises:
        HostError: no image can be run here.
    """
    checks = checks_of(gather_facts())
    print(*checks, sep="\n")
    found = private_dir.clean() if options.clean else private_dir.find()
    for leftover in found:
        print(f"{'removed' if options.clean else 'left by a killed run'}: {leftover}")
    if found and not options.clean:
        print("the next run removes it, or --clean now")
    if missing := [check.name for check in checks if check.state is CheckState.MISSING]:
        raise HostError(f"this host can run no image: {', '.join(missing)}", hint="the remedy of each is above")


def checks_of(facts: HostFacts) -> list[Check]:
    """Returns the checks of a host with these facts."""
    return [_accelerator(facts), _emulator(facts.emulator), _features(facts), _sandbox(facts),
            _confinement(facts.isolation), _reader(facts), _memory(facts), _disk(facts),
            _huge_pages(facts), _compilers(facts), _uefi(facts.uefi)]  # fmt: skip


def gather_facts() -> HostFacts:
    """Gathers the facts of this host; runs QEMU for a few seconds."""
    directory = Path(tempfile.gettempdir())
    try:
        emulator: Emulator | HostError = emulators.find()
    except HostError as error:
        emulator = error
    usable = isinstance(emulator, Emulator)
    return HostFacts(
        emulator=emulator,
        missing_features=tuple(_missing_features(emulator)) if isinstance(emulator, Emulator) else (),
        sandbox_trouble=_sandbox_trouble(emulator) if isinstance(emulator, Emulator) else "",
        isolation=isolation(), reader_reaches=reader.reachable(),
        accelerator=_choose_accelerator(emulator) if isinstance(emulator, Emulator) else HostError("no usable QEMU"),
        kvm_exists=_KVM.exists(), kvm_opens=usable and os.access(_KVM, os.R_OK | os.W_OK),
        memory=host.available_memory(), directory=directory, disk=shutil.disk_usage(directory).free,
        huge_pages=_HUGE_PAGES.read_text("ascii").strip() if _HUGE_PAGES.exists() else "",
        compilers=tuple(name for name in _COMPILERS if shutil.which(name)),
        uefi=tuple(_installed_uefi(emulator)) if isinstance(emulator, Emulator) else (),
    )  # fmt: skip


# Checks: pure functions of the facts


def _accelerator(facts: HostFacts) -> Check:
    found = facts.accelerator
    if isinstance(found, HostError):
        return Check(name="accelerator", state=CheckState.MISSING, found=found.happened,
                     remedy=found.hint or _QEMU_REMEDY)  # fmt: skip
    if found.kind is AcceleratorKind.KVM:
        return _kvm(found)
    if not facts.kvm_exists:
        remedy = ("enable virtualization in the firmware and load kvm_intel or kvm_amd; in a cloud, use bare metal "
                  "or nested virtualization; in a container, pass --device /dev/kvm")  # fmt: skip
    elif not facts.kvm_opens:
        remedy = "give this user access to /dev/kvm: usermod --append --groups kvm USER, then log in again"
    else:
        remedy = "this KVM is itself emulated: use bare metal, or a cloud with nested virtualization in hardware"
    return Check(name="accelerator", state=CheckState.LIMITED, remedy=remedy,
                 found=f"{found}; a run takes up to ten times as long, and no wall-clock time is judged")  # fmt: skip


def _kvm(found: Accelerator) -> Check:
    if not found.other_pace:
        return Check(name="accelerator", state=CheckState.GOOD, found=f"{found}, processor {found.cpu_model}")
    return Check(name="accelerator", state=CheckState.LIMITED, remedy="a host with the clock of an ecs.g7, not nested",
                 found=f"{found.other_pace}; the advertised boot time is not judged by the clock")  # fmt: skip


def _uefi(found: tuple[Firmware, ...]) -> Check:
    lacking = [firmware for firmware in Firmware if firmware.is_uefi and firmware not in found]
    if not lacking:
        return Check(name="UEFI", state=CheckState.GOOD, found=", ".join(found))
    return Check(name="UEFI", state=CheckState.LIMITED, remedy=install_hint("ovmf"),
                 found=f"no firmware for --firmware {' or '.join(lacking)}")  # fmt: skip


def _emulator(found: Emulator | HostError) -> Check:
    if isinstance(found, HostError):
        return Check(name="QEMU", state=CheckState.MISSING, found=found.happened, remedy=found.hint)
    if found.threads_are_sound:
        return Check(name="QEMU", state=CheckState.GOOD, found=f"{found.version} ({found.binary})")
    return Check(name="QEMU", state=CheckState.LIMITED, found=f"{found.version}: all emulated processors on one thread",
                 remedy=f"8.1 or later: {install_hint(emulators.BINARY)}; on Debian 12 with -t bookworm-backports")


def _features(facts: HostFacts) -> Check:
    if isinstance(facts.emulator, HostError):
        return Check(name="features", state=CheckState.MISSING, found="no usable QEMU", remedy=facts.emulator.hint)
    if facts.missing_features:
        return Check(name="features", state=CheckState.MISSING, remedy=_QEMU_REMEDY,
                     found=f"QEMU was built without {', '.join(facts.missing_features)}")  # fmt: skip
    return Check(name="features", state=CheckState.GOOD, found="every device of an ecs.g7, write log, throttling")


def _sandbox(facts: HostFacts) -> Check:
    if isinstance(facts.emulator, HostError):
        return Check(name="sandbox", state=CheckState.MISSING, found="no usable QEMU", remedy=facts.emulator.hint)
    if facts.sandbox_trouble:
        return Check(name="sandbox", state=CheckState.MISSING, found=facts.sandbox_trouble,
                     remedy=hint_for(facts.sandbox_trouble, "a container or policy forbids seccomp or a change of "
                                     "user: allow both, or run as a user other than root"))  # fmt: skip
    return Check(name="sandbox", state=CheckState.GOOD, found="QEMU runs confined by seccomp, without privileges")


def _confinement(found: Isolation) -> Check:
    if found.is_full:
        return Check(name="confinement", state=CheckState.GOOD, found=str(found))
    return Check(name="confinement", state=CheckState.LIMITED, found=str(found),
                 remedy=found.hint or "run as root, so that no machine can reach this user's processes")


def _reader(facts: HostFacts) -> Check:
    if not facts.reader_reaches:
        return Check(name="reader", state=CheckState.GOOD, found="images are parsed by a process that reaches nothing")
    return Check(name="reader", state=CheckState.LIMITED,
                 found=f"the process that parses images can reach {', '.join(facts.reader_reaches)}",
                 remedy="allow namespaces; Landlock needs Linux 5.13 with CONFIG_SECURITY_LANDLOCK")  # fmt: skip


def _memory(facts: HostFacts) -> Check:
    wanted = instances.find(instances.DEFAULT).memory
    try:
        memory = preflight.fit_memory(wanted, facts.memory)
    except HostError as error:
        return Check(name="memory", state=CheckState.MISSING, found=f"{error.happened}, {error.expected} needed",
                     remedy=error.hint)  # fmt: skip
    if memory < wanted:
        return Check(name="memory", state=CheckState.LIMITED, remedy="stop other programs, or run on a larger host",
                     found=f"{facts.memory} MiB free: a guest gets {memory} of {wanted} MiB")  # fmt: skip
    return Check(name="memory", state=CheckState.GOOD, found=f"{facts.memory} MiB free, {wanted} MiB a machine")


def _disk(facts: HostFacts) -> Check:
    found = f"{facts.disk >> 20} MiB free in {facts.directory}"
    if facts.disk < preflight.LEAST_DISK:
        return Check(name="disk", state=CheckState.MISSING, found=f"{found}, {preflight.LEAST_DISK >> 20} MiB needed",
                     remedy="free disk space, or set TMPDIR to another disk")  # fmt: skip
    return Check(name="disk", state=CheckState.GOOD, found=found)


def _huge_pages(facts: HostFacts) -> Check:
    if "[always]" in facts.huge_pages or "[madvise]" in facts.huge_pages:
        return Check(name="huge pages", state=CheckState.GOOD, found=f"transparent: {facts.huge_pages}")
    return Check(name="huge pages", state=CheckState.LIMITED, remedy=f"echo madvise >{_HUGE_PAGES}",
                 found=f"transparent: {facts.huge_pages or 'not in this kernel'}; guests are slower")  # fmt: skip


def _compilers(facts: HostFacts) -> Check:
    missing = [name for name in _COMPILERS if name not in facts.compilers]
    if missing:
        return Check(name="compilers", state=CheckState.LIMITED, remedy=install_hint(*_COMPILERS),
                     found=f"no {', '.join(missing)}: instructions of emulated boots are not counted")  # fmt: skip
    return Check(name="compilers", state=CheckState.GOOD, found=", ".join(facts.compilers))


_QEMU_REMEDY = reinstall_hint(emulators.BINARY)

# Facts


def _choose_accelerator(emulator: Emulator) -> Accelerator | HostError:
    try:
        return accelerators.choose("auto", emulator)
    except HostError as error:
        return error


def _installed_uefi(emulator: Emulator) -> Iterator[Firmware]:
    for firmware in Firmware:
        with contextlib.suppress(HostError):
            if firmwares.find(firmware, emulator.board(firmware)):
                yield firmware


def _missing_features(emulator: Emulator) -> Iterator[str]:
    """The devices and block drivers that this QEMU lacks."""
    listed = _run_qemu([emulator.binary, "-machine", emulators.MACHINE_TYPE, "-device", "help"]).stdout
    yield from (device for device in _DEVICES if f'"{device}"' not in listed)
    for driver in _DRIVERS:
        # A known driver is refused for want of a file here, an unknown one for its name.
        tried = _run_qemu([emulator.binary, "-machine", "none", "-nodefaults", "-blockdev", f"driver={driver}"])
        if "does not accept value" in tried.stderr or "Unknown driver" in tried.stderr:
            yield driver


def _sandbox_trouble(emulator: Emulator) -> str:
    """The last line of QEMU's error when it is started confined as in a run; empty if it starts and ends well."""
    command = [emulator.binary, "-machine", "none", *command_line.PROCESS, "-qmp", "stdio"]
    with confined() as confinement:
        ended = _run_qemu(confinement.wrap(command), _QMP_QUIT)
    return "" if ended.returncode == 0 else printable(ended.stderr).strip().rpartition("\n")[2] or \
        f"QEMU ended with status {ended.returncode}"  # fmt: skip


def _run_qemu(command: list[str], stdin: str = "") -> Ended:
    try:
        return run_tool(command, within=_TIMEOUT, input=stdin)
    except HostError as error:
        return Ended(command, returncode=-1, stdout="", stderr=error.happened)
