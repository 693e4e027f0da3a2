"""An image, and what a machine wrote above it, opened as one disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.disk.image import DiskFormat, Image
from lifsea_testbed.disk.qcow2 import Qcow2
from lifsea_testbed.disk.source import RawFile, Source


@contextlib.contextmanager
def opened(image: Image, *overlays: Path) -> Iterator[Source]:
    """Yields the disk as a machine sees it that has those overlays (qcow2) above the image, the lowest first.

    The machine must be off.

    Raises:
        DiskDamaged, NotJudged: one of the files cannot be read.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(RawFile(image.path))
        disk: Source = Qcow2(file) if image.format is DiskFormat.QCOW2 else file
        for overlay in overlays:
            disk = Qcow2(stack.enter_context(RawFile(overlay)), disk)
        yield disk
