"""QMP: commands, refusals, events, and a QEMU that goes away."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from lifsea_testbed.errors import LaunchError, TestbedError
from lifsea_testbed.qemu.qmp import Event, Monitor
from lifsea_testbed.support.deadline import Deadline
from tests.support.fakes import FakeQemu

SOON = 10.0


@contextlib.contextmanager
def connected(
    answers: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[tuple[Monitor, FakeQemu, list[Event]]]:
    qemu, events = FakeQemu(answers), list[Event]()
    monitor = Monitor(qemu.theirs, on_event=events.append)
    monitor.connect(Deadline.after(SOON))
    yield monitor, qemu, events
    qemu.hang_up()
    monitor.close()


def test_a_command_returns_what_qemu_returned() -> None:
    with connected({"query-status": {"return": {"status": "running"}}}) as (monitor, _, _):
        assert monitor.execute("query-status", deadline=Deadline.after(SOON)) == {"status": "running"}


def test_a_refusal_is_told() -> None:
    refusal = {"error": {"class": "GenericError", "desc": "no such device"}}
    with connected({"device_del": refusal}) as (monitor, _, _), pytest.raises(TestbedError, match="no such device"):
        monitor.execute("device_del", {"id": "x"}, deadline=Deadline.after(SOON))


def test_silence_ends_with_the_deadline() -> None:
    with connected({"stop": {"silent": True}}) as (monitor, _, _), pytest.raises(TestbedError, match="did not answer"):
        monitor.execute("stop", deadline=Deadline.after(0.2))


def test_a_qemu_that_goes_away_ends_the_wait() -> None:
    refused = pytest.raises(LaunchError, match="closed its monitor")
    with connected({"stop": {"hang-up": True}}) as (monitor, _, _), refused:
        monitor.execute("stop", deadline=Deadline.after(SOON))


def test_events_are_passed_on_with_their_time() -> None:
    with connected() as (_, qemu, events):
        qemu.say({"event": "SHUTDOWN", "data": {"guest": True}, "timestamp": {"seconds": 5, "microseconds": 500_000}})
        deadline = Deadline.after(SOON)
        while not events and not deadline.expired:
            time.sleep(0.01)
    assert events == [Event(name="SHUTDOWN", data={"guest": True}, at=5.5)]


def test_a_qemu_that_never_greets_is_not_waited_for() -> None:
    qemu = FakeQemu()
    qemu.hang_up()
    monitor = Monitor(qemu.theirs, on_event=lambda event: None)
    with pytest.raises(LaunchError):
        monitor.connect(Deadline.after(1.0))
    monitor.close()


def test_an_event_that_cannot_be_handled_is_reported() -> None:
    def fail(event: Event) -> None:
        raise RuntimeError(f"no handler for {event.name}")

    qemu, failures = FakeQemu(), list[Exception]()
    monitor = Monitor(qemu.theirs, on_event=fail, on_failure=failures.append)
    monitor.connect(Deadline.after(SOON))
    qemu.say({"event": "SHUTDOWN", "timestamp": {"seconds": 5, "microseconds": 0}})
    deadline = Deadline.after(SOON)
    while not failures and not deadline.expired:
        time.sleep(0.01)
    qemu.hang_up()
    monitor.close()
    assert [str(failure) for failure in failures] == ["no handler for SHUTDOWN"]


def test_events_that_were_passed_on_are_not_kept() -> None:
    """A guest that opens and closes a port causes as many as it likes."""
    with connected() as (monitor, qemu, events):
        for _ in range(100):
            qemu.say({"event": "VSERPORT_CHANGE", "data": {}, "timestamp": {"seconds": 5, "microseconds": 0}})
        deadline = Deadline.after(SOON)
        while len(events) < 100 and not deadline.expired:
            time.sleep(0.01)
        assert len(events) == 100 and monitor._client.events.history == ()
