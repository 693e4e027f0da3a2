"""The signals that end a run: the first one interrupts it, a second one ends the process; workers pass them over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lifsea_testbed.plugin.stop_signals import StopSignals
from tests.support.quick import lay_out

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TWICE = """
import os, signal
from lifsea_testbed.plugin.stop_signals import StopSignals
with StopSignals(is_worker=False):
    try:
        os.kill(os.getpid(), signal.{first})
    except KeyboardInterrupt as interrupt:
        print(interrupt, flush=True)
        os.kill(os.getpid(), signal.{second})
    print("still here")
"""
FAILS = """
from lifsea_testbed import claim

@claim("no-sshd")
def test_sshd(): assert False
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    yield
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_one_interrupts(number: signal.Signals) -> None:
    with StopSignals(is_worker=False) as signals, pytest.raises(KeyboardInterrupt, match=number.name):
        os.kill(os.getpid(), number)
    assert signals.received == number.name


@pytest.mark.parametrize("first", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("second", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_second_one_ends_the_process_at_once(first: str, second: str) -> None:
    ended = subprocess.run([sys.executable, "-c", TWICE.format(first=first, second=second)], capture_output=True,
                           text=True, check=False)
    assert (ended.stdout, ended.returncode) == (f"{first}\n", -getattr(signal, second))


def test_one_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(is_worker=False):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_leaves_them_to_the_controller() -> None:
    with StopSignals(is_worker=True) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
    assert signals.received == ""


def test_who_leaves_the_debugger_interrupts_the_run(pytester: pytest.Pytester) -> None:
    options = lay_out(pytester.path, FAILS)
    command = [sys.executable, "-m", "pytest", *options, "-p", "no:hypothesispytest", "--pdb"]
    ended = subprocess.run(command, input="q\n", capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout.splitlines()[-1].startswith(
        "verdict: interrupted - quick: 1 failed, 3 not judged of 4 claims; pytest.exit: Quitting debugger; not kept: ")
