"""A busy host changes no verdict: processors that have other work, and memory that others hold."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lifsea_testbed.report import document
from tests.suites.test_false_alarms import READ_ONLY
from tests.support import ROOT
from tests.support.quick import lay_out
from tests.support.real import built

SUITE = """
import pytest
from lifsea_testbed import claim

@pytest.mark.parametrize("number", range(3))
@claim("boots-to-ready")
def test_boot(own_machine, number): pass

@claim("no-sshd")
def test_sshd(): pass

@claim("no-python")
def test_python(): pass

@claim("shell-kept")
def test_shell(): pass
"""
#: Programs that end with their standard input, whatever ends this process: one uses a processor, one holds memory.
_BUSY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True: pass
"""
_HOLDS = """
import sys
held = bytearray(int(sys.argv[1]))
for place in range(0, len(held), 4096): held[place] = 1
print("held", flush=True)
sys.stdin.read()
"""
#: How often the suites are run at night.
RUNS = int(os.environ.get("LIFSEA_TESTBED_LOADED_RUNS", "20"))
#: The share of the host's memory that others hold, and what is left to the guest and its host in any case (bytes).
HELD, LEFT = 0.9, 4 << 30


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The verdict of a run: its exit status, and the status of each claim."""

    status: int
    claims: dict[str, str]


@contextlib.contextmanager
def load(*, memory: float = 0.0) -> Iterator[None]:
    """Two busy programs for each processor, and that share of the memory in use, but for what a guest needs."""
    spare = psutil.virtual_memory()
    held = max(0, min(round(spare.available - (1 - memory) * spare.total), spare.available - LEFT)) if memory else 0
    with contextlib.ExitStack() as stack:
        for _ in range(2 * (os.cpu_count() or 1)):
            stack.enter_context(_program(_BUSY))
        if held:
            holder = stack.enter_context(_program(_HOLDS, str(held)))
            assert holder.stdout
            assert holder.stdout.readline() == b"held\n"
        yield


@contextlib.contextmanager
def _program(text: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", text, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def run(options: Sequence[str], place: Path, reports: Path) -> Judged:
    ended = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options,
                            "--reports", str(reports)], cwd=place, capture_output=True, text=True, check=False,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    print(ended.stdout[-3000:], ended.stderr[-3000:])
    found = document.read(reports / "gate.json")
    assert found.exit_status == ended.returncode
    return Judged(status=ended.returncode, claims={claim.id: str(claim.status) for claim in found.claims})


@pytest.mark.boots
def test_a_busy_host_changes_no_verdict_on_a_quick_guest(tmp_path: Path) -> None:
    options = lay_out(tmp_path, SUITE)
    with load():
        judged = run(options, tmp_path, tmp_path / "reports")
    assert judged == Judged(status=0, claims=dict.fromkeys(["boots-to-ready", "no-sshd", "no-python", "shell-kept"],
                                                           "passed"))  # fmt: skip


@pytest.mark.nightly
@pytest.mark.boots
def test_a_busy_host_changes_no_verdict(tmp_path: Path) -> None:
    options = ["--image", str(built("reference")), *READ_ONLY]
    alone = run(options, ROOT, tmp_path / "alone")
    with load(memory=HELD):
        loaded = [run(options, ROOT, tmp_path / str(number)) for number in range(RUNS)]
    print(f"alone: {alone.status}; under load: {[each.status for each in loaded]}")
    assert loaded == [alone] * RUNS
