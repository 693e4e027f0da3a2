"""Tools of the host end within their time, or are the host's fault."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lifsea_testbed.errors import HostError, NotJudged
from lifsea_testbed.qemu import emulator, instruction_counter, storage
from lifsea_testbed.support.programs import run_tool


def test_a_tool_that_ends_has_its_status_and_its_output() -> None:
    ended = run_tool(["sh", "-c", "echo out; echo err >&2; exit 3"], within=30.0)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "out\n", "err\n")


def test_a_tool_that_does_not_end_is_the_hosts_fault() -> None:
    with pytest.raises(HostError, match="sh did not end within 0 s") as caught:
        run_tool(["sh", "-c", "echo so far >&2; exec sleep 60"], within=0.3)
    assert caught.value.evidence == "sh -c 'echo so far >&2; exec sleep 60'\nso far\n"


def test_a_tool_that_is_not_there_is_the_hosts_fault() -> None:
    with pytest.raises(HostError, match="/no/such/tool cannot be started: No such file"):
        run_tool(["/no/such/tool"], within=30.0)


def _build(directory: Path) -> None:
    with instruction_counter.built(directory):
        raise AssertionError("built by a compiler that never ends")


@pytest.mark.parametrize(("tool", "use"), [
    ("qemu-img", lambda path: storage.create_overlay(path / "overlay", image_size=1)),
    ("cp", lambda path: storage.copy_sparse(path / "cp", path / "other")),
    ("qemu-system-x86_64", lambda path: emulator._output(str(path / "qemu-system-x86_64"), "--version")),
    ("gcc", _build),
])  # fmt: skip
def test_no_tool_of_the_test_bed_may_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, use: Callable[[Path], object]
) -> None:
    (tmp_path / tool).write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for module in (storage, emulator, instruction_counter):
        monkeypatch.setattr(module, "run_tool",
                            lambda command, *, within, **_: run_tool(command, within=min(within, 0.3)))
    started = time.monotonic()
    with pytest.raises((HostError, NotJudged), match="did not end within 0 s"):
        use(tmp_path)
    assert time.monotonic() - started < 20.0


def test_a_data_disk_that_the_file_system_cannot_hold_is_the_hosts_fault(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no data disk of 8589934591 GiB can be made in .*: "):
        storage.create_data_disk(tmp_path / "data.raw", size=(1 << 33) - 1)
