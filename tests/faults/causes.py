"""The conftest.py of a run in which something goes wrong: FAULT at MOMENT, by environment variables."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

FAULT, MOMENT = os.environ["FAULT"], os.environ["MOMENT"]
MAIN = int(os.environ.setdefault("MAIN_PROCESS", str(os.getpid())))
REPORTS = Path("reports")


def at(moment: str, *, in_hook: bool = False) -> None:
    """Causes the fault, if this is its moment."""
    if moment == MOMENT and (FAULT != "raise" or in_hook):
        cause()


@contextlib.contextmanager
def while_booting() -> Iterator[None]:
    """Causes the fault as soon as there is a QEMU, if that is its moment."""
    thread = threading.Thread(target=_at_boot, daemon=True)
    if MOMENT == "boot":
        thread.start()
    yield


def _at_boot() -> None:
    while not _machines():
        time.sleep(0.01)
    cause()


def cause() -> None:
    """Causes the fault."""
    if FAULT.startswith("SIG"):
        os.kill(MAIN, getattr(signal, FAULT))
    elif FAULT == "worker":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT in ("qemu", "stop"):
        for process in _machines():
            process.send_signal(signal.SIGKILL if FAULT == "qemu" else signal.SIGSTOP)
    elif FAULT in ("raise", "load"):
        raise RuntimeError("a defect of a plugin")
    elif FAULT == "exit":
        pytest.exit("enough", returncode=1)
    elif FAULT == "sleep":
        time.sleep(600)
    elif FAULT == "lose":
        shutil.rmtree(REPORTS)
    elif FAULT == "vanish":
        shutil.rmtree(Path.cwd())
    elif FAULT == "fill":
        _fill(REPORTS / "ballast")


def _machines() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [process for process in children if process.name().startswith("qemu-system")]


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def pytest_addoption() -> None:
    if FAULT == "load":
        cause()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main() -> None:
    at("before the start", in_hook=True)


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    at("start", in_hook=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "test_fault" in report.nodeid and report.when == "call" and FAULT == "raise":
        at("test", in_hook=True)


def pytest_lifsea_report() -> None:
    at("end", in_hook=True)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: Any) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        if FAULT == "status":
            session.exitstatus = 1


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    at("after the end", in_hook=True)
