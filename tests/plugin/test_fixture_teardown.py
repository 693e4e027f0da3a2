"""A session fixture is finished once, after the last test that uses it, and not earlier."""

from __future__ import annotations

import pytest

CONFTEST = """
from pathlib import Path
import pytest
from lifsea_testbed.plugin.fixture_teardown import EarlyTeardown

def note(what):
    with Path("events.txt").open("a") as events:
        events.write(what + "\\n")

def pytest_configure(config):
    config.pluginmanager.register(EarlyTeardown({"conftest"}, lambda: note("shared ends")))

def held(name):
    note(f"{name} begins")
    yield
    note(f"{name} ends")

@pytest.fixture(scope="session")
def booted():
    yield from held("booted")

@pytest.fixture(scope="session")
def watched(booted):
    yield from held("watched")

@pytest.fixture
def machine():
    pass

def pytest_runtest_call(item):
    note(item.name)
"""
TESTS = """
import pytest

@pytest.fixture(scope="session")
def theirs():
    yield
    from conftest import note
    note("theirs ends")

def test_one(booted, theirs): pass

@pytest.mark.shares_machine
def test_two(watched, machine): pass

def test_three(booted): pass

def test_four(machine): pass
"""
IN_ORDER = ["booted begins", "test_one", "watched begins", "test_two", "watched ends", "test_three", "booted ends",
            "test_four", "theirs ends"]  # fmt: skip
AGAIN = """
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items *= 2
"""
FAILS_ONCE = """
def test_three(booted):
    from pathlib import Path
    assert Path("events.txt").read_text().count("test_three") == 2
"""


def events(pytester: pytest.Pytester, *options: str, tests: str = TESTS, conftest: str = "") -> list[str]:
    pytester.makeconftest(CONFTEST + conftest)
    pytester.makepyfile(test_it=tests)
    pytester.makeini("[pytest]\nmarkers = shares_machine\n")
    ran = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)
    assert ran.ret == 0
    return (pytester.path / "events.txt").read_text().splitlines()


def without_shared(lines: list[str]) -> list[str]:
    return [line for line in lines if line != "shared ends"]


def test_a_fixture_ends_with_the_last_test_that_uses_it(pytester: pytest.Pytester) -> None:
    lines = events(pytester)
    assert without_shared(lines) == IN_ORDER
    assert lines.index("test_two") < lines.index("shared ends") < lines.index("test_three")


def test_a_fixture_of_tests_that_run_twice_ends_after_the_second_time(pytester: pytest.Pytester) -> None:
    lines = without_shared(events(pytester, conftest=AGAIN))
    assert (lines.count("booted begins"), lines.count("booted ends"), lines.count("test_three")) == (1, 1, 2)
    assert lines[-3:] == ["booted ends", "test_four", "theirs ends"]


def test_a_test_that_is_run_again_gets_a_new_one(pytester: pytest.Pytester) -> None:
    lines = without_shared(events(pytester, "--reruns", "1", tests=TESTS + FAILS_ONCE))
    once = ["test_three", "booted ends"]
    assert lines[-7:] == [*once, "booted begins", *once, "test_four", "theirs ends"]


def test_a_worker_that_runs_all_tests_finishes_fixtures_early_as_well(pytester: pytest.Pytester) -> None:
    assert without_shared(events(pytester, "-n", "1")) == IN_ORDER


def test_each_of_two_workers_finishes_the_fixtures_that_it_set_up(pytester: pytest.Pytester) -> None:
    lines = events(pytester, "-n", "2", "--dist", "load")
    assert lines.count("booted begins") == lines.count("booted ends") > 0
