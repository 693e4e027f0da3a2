"""The doctor: what this host has of all that a run needs, and what to do about the rest."""

from __future__ import annotations

import argparse
import enum
import os
import shutil
import subprocess
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
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.emulator import Emulator
from lifsea_testbed.support import host, private_dir
from lifsea_testbed.support.confinement import confinement
from lifsea_testbed.support.host_packages import install_hint, reinstall_hint
from lifsea_testbed.support.sanitize import printable

_KVM = Path("/dev/kvm")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
#: What compiles and links the plugin that counts instructions under emulation, and assembles the probe's payload.
_COMPILERS = ("gcc", "as", "ld")
#: The devices of an ecs.g7, and the block drivers by which its ceiling is kept and a power cut is recorded.
_DEVICES = ("virtio-blk-pci", "virtio-net-pci", "virtio-serial-pci", "virtio-balloon-pci", "cirrus-vga", "pvpanic")
_DRIVERS = ("blklogwrites", "throttle")
_QMP_QUIT = '{"execute": "qmp_capabilities"} {"execute": "quit"}'
_PATIENCE = 30.0


class State(enum.StrEnum):
    """What a finding means for a run: all is well, something cannot be judged or is slow, or nothing can be run."""

    GOOD = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at: its state, what was found, and what to do if that is not enough."""

    what: str
    state: State
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        """One line for people, and the remedy on a second one."""
        line = f"{self.state:<8} {self.what:<12} {self.found}"
        return f"{line}\n{'':<21} remedy: {self.remedy}" if self.remedy else line


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen of a host: memory in MiB, disk in bytes; what QEMU said where it would not run confined."""

    emulator: Emulator | HostError
    lacking: tuple[str, ...]
    sandbox_trouble: str
    accelerator: Accelerator | HostError
    kvm_exists: bool
    kvm_opens: bool
    memory: int
    directory: Path
    disk: int
    huge_pages: str
    compilers: tuple[str, ...]


def run(options: argparse.Namespace) -> None:
    """Prints what this host has and lacks, and the leftovers of killed runs, which --clean removes.

    Raises:
        HostError: no image can be run here.
    """
    findings = examine(gather())
    print(*findings, sep="\n")
    found = private_dir.clean() if options.clean else private_dir.find()
    for leftover in found:
        print(f"{'removed' if options.clean else 'left by a dead run'}: {leftover}")
    if found and not options.clean:
        print("the next run removes it, and so does --clean")
    if missing := [finding.what for finding in findings if finding.state is State.MISSING]:
        raise HostError(f"this host can run no image: {', '.join(missing)}", hint="each has its remedy above")


def examine(facts: Facts) -> list[Finding]:
    """Returns the findings on a host of which these facts are known."""
    return [_accelerator(facts), _emulator(facts.emulator), _features(facts), _sandbox(facts), _memory(facts),
            _disk(facts), _huge_pages(facts), _compilers(facts)]  # fmt: skip


def gather() -> Facts:
    """Looks at this host; runs QEMU for a few seconds."""
    directory = Path(tempfile.gettempdir())
    try:
        emulator: Emulator | HostError = emulators.find()
    except HostError as error:
        emulator = error
    usable = isinstance(emulator, Emulator)
    return Facts(
        emulator=emulator,
        lacking=tuple(_lacking(emulator)) if isinstance(emulator, Emulator) else (),
        sandbox_trouble=_sandboxed(emulator) if isinstance(emulator, Emulator) else "",
        accelerator=_chosen(emulator) if isinstance(emulator, Emulator) else HostError("QEMU is not installed"),
        kvm_exists=_KVM.exists(), kvm_opens=usable and os.access(_KVM, os.R_OK | os.W_OK),
        memory=host.available_memory(), directory=directory, disk=shutil.disk_usage(directory).free,
        huge_pages=_HUGE_PAGES.read_text("ascii").strip() if _HUGE_PAGES.exists() else "",
        compilers=tuple(name for name in _COMPILERS if shutil.which(name)),
    )  # fmt: skip


# What is thought of it


def _accelerator(facts: Facts) -> Finding:
    found = facts.accelerator
    if isinstance(found, HostError):
        return Finding(what="accelerator", state=State.MISSING, found=found.happened, remedy=_QEMU_REMEDY)
    if found.kind is AcceleratorKind.KVM:
        return Finding(what="accelerator", state=State.GOOD, found=str(found))
    if not facts.kvm_exists:
        remedy = ("switch virtualization on in the firmware and load kvm_intel or kvm_amd; in a cloud, take bare metal "
                  "or nested virtualization; in a container, pass --device /dev/kvm")  # fmt: skip
    elif not facts.kvm_opens:
        remedy = "let this user open /dev/kvm: usermod --append --groups kvm USER, and log in anew"
    else:
        remedy = "this KVM is itself emulated: take bare metal, or a cloud with nested virtualization in hardware"
    return Finding(what="accelerator", state=State.LIMITED, remedy=remedy,
                   found=f"{found}; everything takes up to ten times as long, and no wall clock is judged")  # fmt: skip


def _emulator(found: Emulator | HostError) -> Finding:
    if isinstance(found, HostError):
        return Finding(what="QEMU", state=State.MISSING, found=found.happened, remedy=found.hint)
    if found.threads_are_sound:
        return Finding(what="QEMU", state=State.GOOD, found=f"{found.version} ({found.binary})")
    return Finding(what="QEMU", state=State.LIMITED, found=f"{found.version}: all emulated processors on one thread",
                   remedy=f"8.1 or later: {install_hint(emulators.BINARY)}; on Debian 12 with -t bookworm-backports")


def _features(facts: Facts) -> Finding:
    if isinstance(facts.emulator, HostError):
        return Finding(what="features", state=State.MISSING, found="no QEMU to ask", remedy=facts.emulator.hint)
    if facts.lacking:
        return Finding(what="features", state=State.MISSING, remedy=_QEMU_REMEDY,
                       found=f"QEMU was built without {', '.join(facts.lacking)}")  # fmt: skip
    return Finding(what="features", state=State.GOOD, found="every device of an ecs.g7, write log, throttling")


def _sandbox(facts: Facts) -> Finding:
    if isinstance(facts.emulator, HostError):
        return Finding(what="sandbox", state=State.MISSING, found="no QEMU to confine", remedy=facts.emulator.hint)
    if facts.sandbox_trouble:
        return Finding(what="sandbox", state=State.MISSING, found=facts.sandbox_trouble,
                       remedy="a container or policy forbids seccomp or a change of user: allow both, or run as a user "
                       "other than root")  # fmt: skip
    return Finding(what="sandbox", state=State.GOOD, found="QEMU runs confined by seccomp, without privileges")


def _memory(facts: Facts) -> Finding:
    wanted = instances.find(instances.DEFAULT).memory
    try:
        memory = preflight.fit_memory(wanted, facts.memory)
    except HostError as error:
        return Finding(what="memory", state=State.MISSING, found=f"{error.happened}, needed are {error.expected}",
                       remedy=error.hint)  # fmt: skip
    if memory < wanted:
        return Finding(what="memory", state=State.LIMITED, remedy="stop other programs, or run on a larger host",
                       found=f"{facts.memory} MiB free: a guest gets {memory} of {wanted} MiB")  # fmt: skip
    return Finding(what="memory", state=State.GOOD, found=f"{facts.memory} MiB free, {wanted} MiB a machine")


def _disk(facts: Facts) -> Finding:
    found = f"{facts.disk >> 20} MiB free in {facts.directory}"
    if facts.disk < preflight.LEAST_DISK:
        return Finding(what="disk", state=State.MISSING, found=f"{found}, needed are {preflight.LEAST_DISK >> 20} MiB",
                       remedy="free disk space, or set TMPDIR to another disk")  # fmt: skip
    return Finding(what="disk", state=State.GOOD, found=found)


def _huge_pages(facts: Facts) -> Finding:
    if "[always]" in facts.huge_pages or "[madvise]" in facts.huge_pages:
        return Finding(what="huge pages", state=State.GOOD, found=f"transparent: {facts.huge_pages}")
    return Finding(what="huge pages", state=State.LIMITED, remedy=f"echo madvise >{_HUGE_PAGES}",
                   found=f"transparent: {facts.huge_pages or 'not in this kernel'}; guests are slower")  # fmt: skip


def _compilers(facts: Facts) -> Finding:
    missing = [name for name in _COMPILERS if name not in facts.compilers]
    if missing:
        return Finding(what="compilers", state=State.LIMITED, remedy=install_hint(*_COMPILERS),
                       found=f"no {', '.join(missing)}: instructions of emulated boots are not counted")  # fmt: skip
    return Finding(what="compilers", state=State.GOOD, found=", ".join(facts.compilers))


_QEMU_REMEDY = reinstall_hint(emulators.BINARY)

# What is seen


def _chosen(emulator: Emulator) -> Accelerator | HostError:
    try:
        return accelerators.choose("auto", emulator)
    except HostError as error:
        return error


def _lacking(emulator: Emulator) -> Iterator[str]:
    """The devices and drivers that this QEMU does not have."""
    listed = _answer([emulator.binary, "-machine", emulators.MACHINE_TYPE, "-device", "help"]).stdout
    yield from (device for device in _DEVICES if f'"{device}"' not in listed)
    for driver in _DRIVERS:
        # A driver that QEMU knows lacks a file here, one that it does not know is no driver.
        refused = _answer([emulator.binary, "-machine", "none", "-nodefaults", "-blockdev", f"driver={driver}"]).stderr
        if "does not accept value" in refused or "Unknown driver" in refused:
            yield driver


def _sandboxed(emulator: Emulator) -> str:
    """Nothing if QEMU starts and ends as it is confined in a run, or its last words."""
    command = [emulator.binary, "-machine", "none", *command_line.PROCESS, "-qmp", "stdio"]
    ended = _answer(confinement().wrap(command), _QMP_QUIT)
    return "" if ended.returncode == 0 else printable(ended.stderr).strip().rpartition("\n")[2] or \
        f"QEMU ended with status {ended.returncode}"  # fmt: skip


def _answer(command: list[str], words: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=words, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, returncode=-1, stdout="", stderr="QEMU does not answer")
