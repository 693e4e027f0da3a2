"""Sound files of VHD, VHDX and VMDK disks, and what reads one of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.disk.virtual_disk import virtual_disk
from tests.fuzz.file_systems import Bytes
from tests.support import disks
from tests.support.boot_sector import boot_sector

_MIB = 1 << 20


def read(form: DiskFormat) -> Callable[[bytes], None]:
    """Returns what reads parts of the disk in a file of that format."""
    def parts(data: bytes) -> None:
        disk = virtual_disk(form, Bytes(data))
        for offset in range(0, min(disk.size, 4 * _MIB), 65536):
            disk.read_at(offset, min(512, disk.size - offset))

    return parts


def _made(driver: str, *options: str) -> Callable[[], list[bytes]]:
    """Files of a disk of 1 MiB, as QEMU's driver makes them with each of the options."""
    def files() -> list[bytes]:
        with tempfile.TemporaryDirectory() as place:
            raw = Path(place, "disk.raw")
            raw.write_bytes(boot_sector("up\n") + b"x" * 70000 + bytes(_MIB - 70512))
            for number, option in enumerate(options):
                disks.run("qemu-img", "convert", "-f", "raw", "-O", driver, "-o", option, raw, Path(place, str(number)))
            return [Path(place, str(number)).read_bytes() for number in range(len(options))]

    return files


vhds = _made("vpc", "subformat=dynamic", "subformat=dynamic,force_size=on")
fixed_vhds = _made("vpc", "subformat=fixed")
vhdxs = _made("vhdx", "block_size=1M,log_size=1M", "block_size=1M,log_size=1M,subformat=fixed")
vmdks = _made("vmdk", "subformat=monolithicSparse", "subformat=monolithicSparse,zeroed_grain=on")
