"""The disk of a machine that is off: an image, and the overlays (qcow2) above it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lifsea_testbed.disk.image import Image
from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.disk.virtual_disk import virtual_disk
from lifsea_testbed.support.reader import ConfinedReader, open_file


def reader(module: str, image: Image, *overlays: Path, beside: Sequence[Path] = ()) -> ConfinedReader:
    """Returns a reader of the disk with those overlays, the lowest first; the questions are those of that module.

    Its function `opened` gets the format, with files `beside` the disk the number of layers, and all descriptors.

    Raises:
        ImageRefused: one of the files is no regular file.
        OSError: it cannot be opened.
    """
    files: list[int] = []
    try:
        for path in (image.path, *overlays, *beside):
            files.append(open_file(path))
        count = [str(1 + len(overlays))] if beside else []
        return ConfinedReader(module, files, image.format, *count, name=image.path.name)
    except BaseException:
        for descriptor in files:
            os.close(descriptor)
        raise


def opened(form: str, files: Sequence[ByteSource]) -> ByteSource:
    """Returns the disk in those files: the image, of that format, and overlays, the lowest first.

    Raises:
        DiskDamaged, NotJudged: one of the files cannot be read.
    """
    disk = virtual_disk(DiskFormat(form), files[0])
    for overlay in files[1:]:
        disk = Qcow2(overlay, disk)
    return disk
