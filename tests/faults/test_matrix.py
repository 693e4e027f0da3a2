"""Each fault of the matrix, caused in a run on a quick guest whose reports replace those of a run before."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lifsea_testbed.report import document
from lifsea_testbed.report.directory import VERDICT, ReportsDirectory
from tests.support import ROOT
from tests.support.faults import CELLS, Cell, Moment, Reports
from tests.support.quick import lay_out

SUITE = """
from conftest import at, while_booting
from lifsea_testbed import claim

@claim("no-python")
def test_before(): pass

@claim("no-sshd")
def test_fault(request):
    if {machine}:
        with while_booting():
            machine = request.getfixturevalue("own_machine")
        at("test")
        machine.wait_until(lambda: False, "the end", within=5)
    else:
        at("test")

@claim("boots-to-ready")
def test_boot(): pass

@claim("shell-kept")
def test_shell(): pass
"""
EARLIER = "of the run before"
MARK = "LIFSEA_TESTBED_FAULT"
#: The time after which a run hangs (seconds).
HANGING = 300.0


#: One moment of each fault, a test if it can come then; the others are tried at night.
USUAL = [min((cell for cell in CELLS if cell.fault == fault), key=lambda cell: cell.moment is not Moment.TEST)
         for fault in dict.fromkeys(cell.fault for cell in CELLS if not cell.slow)]  # fmt: skip


@pytest.mark.parametrize("cell", [
    pytest.param(cell, id=str(cell), marks=[] if cell in USUAL else [pytest.mark.nightly]) for cell in CELLS
])  # fmt: skip
def test_a_fault_at_a_moment(cell: Cell, tmp_path: Path) -> None:
    if cell.root and os.geteuid():
        pytest.skip("only root mounts file systems")
    options = lay_out(tmp_path, SUITE.format(machine=cell.machine),
                      conftest=Path(__file__).with_name("causes.py").read_text("utf-8"))
    reports = tmp_path / "reports"
    reports.mkdir()
    for name in VERDICT:
        (reports / name).write_text(EARLIER)
    mark = uuid.uuid4().hex
    with other_run(reports) if cell.key == "lock" else contextlib.nullcontext():
        ended = start(cell, tmp_path, options, mark)
    output = ended.stdout + ended.stderr
    assert ended.returncode == cell.status, output
    assert cell.says in output
    if cell.verdict:
        line = (ended.stdout if "verdict: " in ended.stdout else ended.stderr).splitlines()[-1]
        assert line.startswith(f"verdict: {cell.verdict}"), output
    else:
        assert [line[:7] for line in ended.stderr.splitlines() if line] == ["ERROR: "], output
    assert reports_of(reports, cell) is cell.reports, output
    assert left(tmp_path, mark) == []


def start(cell: Cell, place: Path, options: list[str], mark: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest with the fault to its end."""
    environment = {**os.environ, "FAULT": cell.key, "MOMENT": str(cell.moment), "TMPDIR": str(place / "tmp"),
                   "PYTHONPATH": str(ROOT), MARK: mark}  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "--basetemp", str(place / "of-pytest"), *options, *cell.options]
    return subprocess.run(["sh", "-c", cell.shell, "sh", *command], cwd=place, env=environment, capture_output=True,
                          text=True, errors="replace", check=False, timeout=HANGING)  # fmt: skip


@contextlib.contextmanager
def other_run(reports: Path) -> Iterator[None]:
    with contextlib.closing(ReportsDirectory(reports)):
        yield


def reports_of(reports: Path, cell: Cell) -> Reports:
    """Whose reports there are; a mix of two runs, a half-written one or another verdict is an error."""
    if not reports.exists():
        return Reports.NONE
    old = {name for name in VERDICT if (reports / name).exists() and (reports / name).read_text("utf-8") == EARLIER}
    if old:
        assert old == set(VERDICT)
        return Reports.EARLIER
    found = document.read(reports / "gate.json")
    assert (str(found.verdict), found.exit_status) == (cell.verdict, cell.status)
    blamed = {str(claim.blame) for claim in found.claims if claim.blame}
    assert blamed == ({cell.blame} if cell.blame else set())
    assert cell.small or {(reports / name).exists() for name in ("junit.xml", "summary.md")} == {True}
    return Reports.NEW


def left(place: Path, mark: str) -> list[object]:
    """What is left of the run: processes, sockets and files in the directory for temporary files, halves of reports."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    alive = psutil.wait_procs(processes, timeout=20.0)[1]
    return [*alive, *(place / "tmp").rglob("*"), *(place / "reports").glob(".*")]
