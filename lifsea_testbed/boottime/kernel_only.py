"""Runs the kernel alone: the times of its initcalls by a clock that counts instructions, equal in every run.

The image is not touched, and its disk is not attached: its own kernel and the options of the entry that boots next are
read offline and passed to QEMU. With a disk the times would not be exact, because virtual time leaps while the guest
waits for it; so the kernel runs on one processor until it finds no root file system.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from lifsea_testbed.boottime.attribution import Growth, GrowthKind, apart
from lifsea_testbed.disk.image import Image
from lifsea_testbed.errors import HostError, NotJudged, Reason
from lifsea_testbed.guest.offline import OfflineTree
from lifsea_testbed.qemu import processor
from lifsea_testbed.qemu.accelerator import AcceleratorKind, confine
from lifsea_testbed.qemu.emulator import MACHINE_TYPE, Emulator
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.private_dir import PrivateDirectory
from lifsea_testbed.support.programs import Late, run_tool
from lifsea_testbed.support.sanitize import printable

_KERNEL = "kernel"
_LARGEST_KERNEL = 256 << 20
#: How long the run may take on the host (seconds): a kernel needs about ten, on a processor that is shared.
_LONGEST_RUN = 180.0
#: Kernel options that make it wait for a disk, or print less.
_DROPPED = ("rootwait", "quiet", "loglevel=", "panic=", "initcall_debug", "console=")
_ADDED = ("console=ttyS0", "initcall_debug", "loglevel=8", "panic=-1")
_RETURNED = re.compile(r"initcall (\S+?)(?:\+\S+)? returned -?\d+ (?:with \S+ )?after (\d+) usecs")
_STAMP = re.compile(r"\[ *(\d+\.\d{6})\] ")
_END = re.compile(r"VFS: |Kernel panic")


@dataclass(frozen=True, kw_only=True)
class KernelPhase:
    """The time of each initcall, and that until the kernel looks for its root, in µs at 1 instruction/ns."""

    initcalls: dict[str, float]
    until_root: float


@dataclass(frozen=True, kw_only=True)
class Bootable:
    """The kernel that an image boots next, and its command line options."""

    kernel: bytes
    options: tuple[str, ...]


def find(image: Image) -> Bootable:
    """Returns the kernel of the boot entry that comes first.

    Raises:
        NotJudged: the image has no readable boot entry, or no kernel at the path that the entry names; or that is
            larger than any.
    """
    offline = OfflineTree(image)
    entry = offline.first_entry()
    if entry.kernel.size > _LARGEST_KERNEL:
        raise NotJudged(f"the kernel {entry.kernel.path} has {entry.kernel.size} bytes; at most {_LARGEST_KERNEL} are "
                        "read offline", Reason.IMAGE)  # fmt: skip
    return Bootable(kernel=b"".join(offline.content(entry.kernel)), options=entry.options)


def command(emulator: Emulator, options: tuple[str, ...]) -> list[str]:
    """Returns the QEMU command line: one processor, one instruction a nanosecond, no disk, a fixed date."""
    kept = [word for word in options if not word.startswith(_DROPPED)]
    return [
        emulator.binary, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine", MACHINE_TYPE, "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-seed", "1",
        "-rtc", "base=2024-01-01T00:00:00,clock=vm", "-smp", "1", "-m", "1024",
        "-cpu", processor.option(processor.EMULATED),
        "-serial", "stdio", "-kernel", _KERNEL, "-append", " ".join([*kept, *_ADDED]),
    ]  # fmt: skip


def run(image: Image, emulator: Emulator) -> KernelPhase:
    """Runs the image's kernel and returns the times.

    Raises:
        NotJudged: its kernel cannot be read, or does not print its initcalls.
        HostError: it did not end in time.
    """
    bootable = find(image)
    with PrivateDirectory() as directory, confine(AcceleratorKind.TCG) as confinement:
        directory.path.chmod(0o755)
        kernel = directory.path / _KERNEL
        kernel.write_bytes(bootable.kernel)
        kernel.chmod(0o644)
        started = confinement.wrap(command(emulator, bootable.options), directory=directory.path)
        try:
            done = run_tool(started, within=_LONGEST_RUN, directory=directory.path)
        except Late as error:
            raise HostError(f"the kernel alone did not end within {_LONGEST_RUN:.0f} s",
                            evidence=printable(error.evidence)[-2000:]) from None
    return parse(printable(done.stdout))


def parse(console: str) -> KernelPhase:
    """Reads the console of a kernel that ran with `initcall_debug`.

    Raises:
        NotJudged: there is no initcall in it.
    """
    taken: Counter[str] = Counter()
    for name, microseconds in _RETURNED.findall(console):
        taken[name] += int(microseconds)
    if not taken:
        raise NotJudged("the kernel printed no initcall, although it ran with initcall_debug", Reason.IMAGE)
    last = 0.0
    for line in split_lines(console):
        if stamp := _STAMP.search(line):
            last = float(stamp[1]) * 1e6
            if _END.search(line):
                break
    return KernelPhase(initcalls={name: float(count) for name, count in taken.items()}, until_root=round(last))


def differences(before: KernelPhase, after: KernelPhase) -> list[Growth]:
    """Returns the initcalls whose times differ; the times have no noise."""
    return apart(GrowthKind.INITCALL, "µs", [before.initcalls], [after.initcalls])
