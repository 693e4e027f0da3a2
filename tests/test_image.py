from __future__ import annotations

from pathlib import Path

import pytest

from lifsea_testbed.errors import ImageRefused
from lifsea_testbed.image import DiskFormat, examine
from tests.boot_sector import raw_image


def test_a_raw_disk_is_accepted(tmp_path: Path) -> None:
    image = examine(raw_image(tmp_path / "disk.raw"))
    assert (image.format, image.virtual_size, image.unchanged) == (DiskFormat.RAW, 1 << 20, True)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="no such image"):
        examine(tmp_path / "none.qcow2")


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ImageRefused, match="not a disk image"):
        examine(tmp_path / "text")
