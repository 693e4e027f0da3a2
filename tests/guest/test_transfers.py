"""Files and directories go into a guest and come back with every byte, and nothing lands outside."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lifsea_testbed.errors import AnswerUnreadable, ChannelError, CommandFailed
from lifsea_testbed.guest import files
from lifsea_testbed.guest.files import PIECE, Files
from lifsea_testbed.support.protocols import CommandResult


class HostShell:
    """The host as a guest; `lost` bytes of each input do not arrive."""

    def __init__(self, *, lost: int = 0) -> None:
        self._lost = lost

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        script = command if isinstance(command, str) else shlex.join(command)
        ran = subprocess.run(["sh", "-c", script], input=input[self._lost:], capture_output=True, check=False)
        if check and ran.returncode:
            raise CommandFailed(f"status {ran.returncode}", evidence=ran.stderr.decode())
        return CommandResult(script=script, exit_status=ran.returncode, output=ran.stdout, errors=ran.stderr,
                             duration=0.0)  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1])
def test_a_file_goes_there_and_back(tmp_path: Path, size: int) -> None:
    content, there = os.urandom(size), str(tmp_path / "the re")
    Files(HostShell()).put(content, there)
    Files(HostShell()).get(there, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_a_file_without_an_end_does_not_fill_the_hosts_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LARGEST_FILE", 3 * PIECE)
    with pytest.raises(AnswerUnreadable, match="/dev/zero: the guest's file does not end"):
        Files(HostShell()).get("/dev/zero", tmp_path / "back")
    assert (tmp_path / "back").stat().st_size == 3 * PIECE


def test_a_file_of_the_host_replaces_one_of_the_guest(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("longer than before")
    (tmp_path / "here").write_text("new")
    Files(HostShell()).put(tmp_path / "here", str(tmp_path / "there"))
    assert (tmp_path / "there").read_text() == "new"


def test_a_directory_goes_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "here/below").mkdir(parents=True)
    (tmp_path / "here/below/file").write_text("text")
    Files(HostShell()).put_tree(tmp_path / "here", str(tmp_path / "there"))
    Files(HostShell()).get_tree(str(tmp_path / "there"), tmp_path / "back")
    assert (tmp_path / "back/below/file").read_text() == "text"


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/out").symlink_to("/etc")
    with pytest.raises(AnswerUnreadable, match="cannot be unpacked"):
        Files(HostShell()).get_tree(str(tmp_path / "there"), tmp_path / "back")


def test_a_byte_that_is_lost_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="the digest of the guest's file is not that of the host's"):
        Files(HostShell(lost=1)).put(b"text", str(tmp_path / "there"))


def test_a_file_that_does_not_exist_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):
        Files(HostShell()).get(str(tmp_path / "nothing"), tmp_path / "back")
