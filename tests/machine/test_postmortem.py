"""The journal of a machine that failed is taken off its disk by a reader, and read by a confined journalctl."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifsea_testbed.disk import image
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.machine import postmortem
from tests.support import disks


@pytest.mark.parametrize(("files", "complaint"), [
    ({"var/log/journal/0123/system.journal": b"LPKSHHRH" + bytes(5 << 20)}, "journalctl cannot read the journal"),
    ({"var/log/journal/0123/user.journal": b"LPKSHHRH"}, "the disk has no journal"),
])  # fmt: skip
def test_a_journal_that_cannot_be_read_is_not_judged(tmp_path: Path, files: dict[str, str | bytes],
                                                     complaint: str) -> None:  # fmt: skip
    root = disks.fill(tmp_path / "root", {"etc/os-release": "ID=x\n", **files})
    raw = disks.disk(tmp_path / "disk.raw", root=root)
    overlay = tmp_path / "overlay.qcow2"
    disks.run("qemu-img", "create", "-q", "-f", "qcow2", overlay, str(raw.stat().st_size))
    with pytest.raises(NotJudged, match=complaint):
        postmortem.journal(image.examine(raw), overlay, tmp_path)
    copied = [path.read_bytes() for path in (tmp_path / "journal").iterdir()]
    assert copied == [content for name, content in files.items() if "system" in name]
