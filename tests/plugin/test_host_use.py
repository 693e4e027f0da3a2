"""Timed fixtures have the host to themselves under KVM: the tests of other workers wait, and all come to an end."""

from __future__ import annotations

import pytest

from tests.support.quick import lay_out

#: Takes KVM for granted, and a campaign of boots that writes when it begins and ends.
CONFTEST = """
import time
from pathlib import Path

import pytest

from lifsea_testbed.boottime import campaign
from lifsea_testbed.qemu import accelerator
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind

LOG = Path(__file__).with_name("log")


def note(line):
    with LOG.open("a") as file:
        file.write(line + "\\n")


def meet(sign):
    # Both sides wait for each other's sign: where nothing keeps them apart, they run at once; else in vain, so long.
    end = time.monotonic() + (60 if "ACCELERATOR" == "tcg" else 6)
    while sign not in LOG.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)


def timed(*_):
    note("+timed")
    meet("+test")
    time.sleep(0.3)
    note("-timed")


accelerator.choose = lambda *_: Accelerator(kind=AcceleratorKind("ACCELERATOR"), speed=SPEED, why="requested")
campaign.cold_boots = timed


@pytest.fixture
def noted(request):
    note(f"+{request.node.name}")
    meet("+timed")
    yield
    note(f"-{request.node.name}")
"""
SUITE = """
def test_boot_time(cold_boots): pass

def test_something(noted): pass
"""


def conftest(accelerator: str, speed: float = 9000.0) -> str:
    return CONFTEST.replace("ACCELERATOR", accelerator).replace("SPEED", str(speed))


def beside(pytester: pytest.Pytester, accelerator: str) -> set[str]:
    """The tests that ran in another worker while boots were timed."""
    options = lay_out(pytester.path, SUITE, conftest=conftest(accelerator))
    result = pytester.runpytest_subprocess(*options, "-n", "2", "--dist", "load")
    result.assert_outcomes(passed=2)
    timed, running = set[str](), set[str]()
    for line in (pytester.path / "log").read_text().splitlines():
        running = running | {line[1:]} if line.startswith("+") else running - {line[1:]}
        timed |= running if "timed" in running else set()
    assert running == set()
    return timed - {"timed"}


def test_under_kvm_boots_are_timed_alone(pytester: pytest.Pytester) -> None:
    assert beside(pytester, "kvm") == set()


def test_under_emulation_nothing_waits(pytester: pytest.Pytester) -> None:
    assert beside(pytester, "tcg") == {"test_something"}


@pytest.mark.parametrize(("speed", "warns"), [(9000.0, False), (4000.0, True)])
def test_the_header_says_that_the_clock_does_not_judge(pytester: pytest.Pytester, speed: float, warns: bool) -> None:
    options = lay_out(pytester.path, "def test_nothing(): pass", conftest=conftest("kvm", speed))
    shown = pytester.runpytest_subprocess(*options).stdout.str()
    warning = "WARNING: KVM runs 4000.0 M instructions/s here, an ecs.g7 5400 to 14000 M: the clock does not judge"
    assert (warning in shown) == warns
