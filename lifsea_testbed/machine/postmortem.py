"""What can still be had of a machine that failed, made on the host: its screen, its memory, the journal on its disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.disk.image import Image
from lifsea_testbed.disk.os_root import boots_next
from lifsea_testbed.disk.qcow2 import open_layers
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.sanitize import printable

#: How long QEMU may take for a picture of the screen, and for a dump of the memory (seconds on the host).
_PICTURE, _DUMP = 10.0, 600.0
#: The largest file of a journal that is read off a disk (bytes; journald's own limit is 128 MiB), and how many.
_LARGEST, _MOST = 128 << 20, 8
_READING = 60.0


def screen(boot: Boot, path: Path) -> None:
    """Writes what the machine's screen shows as a PNG.

    Raises:
        TestbedError: QEMU is gone, does not answer, or cannot.
    """
    _have_written(boot, path, "screendump", {"format": "png"}, "filename", "{}", Deadline.after(_PICTURE))


def memory(boot: Boot, path: Path) -> None:
    """Writes the guest's memory as a compressed kdump, which crash(8) and drgn read; nothing in it is masked.

    Raises:
        TestbedError: QEMU is gone, does not answer, or cannot.
    """
    _have_written(boot, path, "dump-guest-memory", {"paging": False, "format": "kdump-zlib"}, "protocol", "file:{}",
                  Deadline.after(_DUMP))


def journal(image: Image, overlay: Path, directory: Path, confinement: Confinement) -> str:
    """Returns the last boot's journal from the disk of a machine that is off; `directory` is for what lies between.

    Raises:
        NotJudged: there is none on the disk, or it cannot be read offline.
        DiskDamaged: the disk contradicts itself.
        OSError: journalctl cannot be run.
        subprocess.TimeoutExpired: it did not end.
    """
    place = directory / "journal"
    place.mkdir(mode=0o700)
    confinement.admit(place)
    for number, content in enumerate(_files(image, overlay)):
        path = place / f"{number}.journal"
        path.write_bytes(content)
        confinement.admit(path)
    if not any(place.iterdir()):
        raise NotJudged("the disk has no journal (/var/log/journal)")
    command = ["journalctl", "--directory", str(place), "--boot", "--no-pager", "--quiet", "--output=short-monotonic"]
    read = subprocess.run(confinement.wrap(command), capture_output=True, check=False, timeout=_READING)
    if not read.stdout:
        raise NotJudged(f"journalctl cannot read the journal on the disk: {printable(read.stderr).strip()[-200:]}")
    return printable(read.stdout)


def _files(image: Image, overlay: Path) -> Iterator[bytes]:
    with open_layers(image, overlay) as disk:
        tree = boots_next(disk)
        for path in tree.glob("/var/log/journal/*/system*.journal")[-_MOST:]:
            content = tree.read(path, _LARGEST)
            if content is not None:
                yield content


def _have_written(boot: Boot, path: Path, command: str, arguments: dict[str, object], target: str, form: str,
                  deadline: Deadline) -> None:
    """Has QEMU write a file that is opened here: it opens nothing by name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        name = boot.monitor.add_descriptor(descriptor, deadline=deadline)
        boot.monitor.execute(command, {**arguments, target: form.format(name)}, deadline=deadline)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
