"""The disk in a file of each supported format."""

from __future__ import annotations

from lifsea_testbed.disk import vhd, vhdx, vmdk
from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.disk.source import ByteSource

_READERS = {
    DiskFormat.QCOW2: Qcow2, DiskFormat.VHD: vhd.dynamic, DiskFormat.VHD_FIXED: vhd.fixed, DiskFormat.VHDX: vhdx.whole,
    DiskFormat.VMDK: vmdk.sparse,
}  # fmt: skip


def virtual_disk(form: DiskFormat, file: ByteSource) -> ByteSource:
    """Returns the disk in a file of that format: the file itself, if it is a raw disk.

    Raises:
        DiskDamaged: the file contradicts itself.
        ImageRefused: it is a VHD, VHDX or VMDK that refers to another file, or that QEMU does not read as it is.
        NotJudged: it is a qcow2 file with a feature that is not read offline.
    """
    return file if form is DiskFormat.RAW else _READERS[form](file)
