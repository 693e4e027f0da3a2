"""The clock of a guest is read to a fraction of a second, and as its time daemon knows it."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import pytest

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.guest import system
from lifsea_testbed.guest.system import Clock, ClockTracking
from tests.support.fakes import FakeShell

TRACKING = "64643D58,100.100.61.88,2,1796028171.2,-0.000029995,0.00003,0.00003,0.0,-123.6,10.1,0.003,23.5,1.7,Normal\n"


def clock(answer: str | tuple[int, str]) -> Clock:
    return Clock(FakeShell({"chronyc -c tracking": answer, "date": answer}))


def test_the_clock_is_tracked() -> None:
    assert clock(TRACKING).tracking() == ClockTracking(source="100.100.61.88", stratum=2, offset=-0.000029995,
                                                       is_synchronised=True)  # fmt: skip


@pytest.mark.parametrize("status", ["Not synchronised", "", "?"])
def test_a_clock_that_no_server_keeps_is_not_synchronised(status: str) -> None:
    tracking = clock(TRACKING.replace("Normal", status)).tracking()
    assert tracking is not None and not tracking.is_synchronised


@pytest.mark.parametrize("answer", [(1, "506 Cannot talk to daemon\n"), "506 Cannot talk to daemon\n"])
def test_a_time_daemon_that_does_not_answer_tracks_nothing(answer: str | tuple[int, str]) -> None:
    assert clock(answer).tracking() is None


def test_an_image_without_chronyc_is_not_judged() -> None:
    with pytest.raises(NotJudged, match="no chronyc"):
        clock((127, "")).tracking()


@pytest.mark.parametrize(("shown", "ahead"), [("103.25", 2.5), ("98.250000000", -2.5), ("103.%N", 2.75)])
def test_the_clock_is_read_to_a_fraction(monkeypatch: pytest.MonkeyPatch, shown: str, ahead: float) -> None:
    times = itertools.cycle([100.5, 101.0])
    monkeypatch.setattr(system, "time", SimpleNamespace(time=lambda: next(times)))
    assert clock(shown).ahead() == pytest.approx(ahead)


def test_the_quickest_reading_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 108.0, 110.0, 110.2, 120.0, 124.0])
    monkeypatch.setattr(system, "time", SimpleNamespace(time=lambda: next(times)))
    assert clock("110.1").ahead() == pytest.approx(0.0)


def test_a_guest_on_the_hosts_clock_is_not_ahead() -> None:
    assert abs(clock(f"{time.time():.9f}").ahead()) < 1
