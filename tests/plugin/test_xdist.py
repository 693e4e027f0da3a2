"""xdist runs every test once, even if workers die; with fake workers, which wait for the next test as real ones do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifsea_testbed.plugin import xdist

UNITS = st.lists(st.integers(1, 3), min_size=1, max_size=8)


class Worker:
    """Runs a test once it knows of another, or that there is none; dies in one of those that kill."""

    def __init__(self, name: str, tests: list[str]) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.queue: list[int] = []
        self.tests = tests

    def send_runtest_some(self, indices: list[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def can_run(self) -> bool:
        return len(self.queue) > 1 or (bool(self.queue) and self.shutting_down)


def new_worker(scheduler: Any, number: int, tests: list[str]) -> Worker:
    worker = Worker(f"gw{number}", tests)
    scheduler.add_node(worker)
    scheduler.add_node_collection(worker, tests)
    return worker


def play(mode: str, tests: list[str], deadly: set[str], workers: int) -> tuple[list[str], list[str]]:
    """Returns the tests that ran and those in which workers died, when no worker can run any more."""
    values = {"dist": mode, "numprocesses": workers, "tx": ["popen"] * workers, "px": []}
    config: Any = SimpleNamespace(getoption=values.get, getvalue=values.get,
                                  option=SimpleNamespace(loadscopereorder=True))  # fmt: skip
    scheduler: Any = xdist._SCHEDULERS[mode](config, None)
    living = [new_worker(scheduler, number, tests) for number in range(workers)]
    scheduler.schedule()
    ran: list[str] = []
    died: list[str] = []
    while runnable := [worker for worker in living if worker.can_run]:
        worker = runnable[0]
        index = worker.queue.pop(0)
        if tests[index] in deadly:
            living.remove(worker)
            died.append(scheduler.remove_node(worker))
            assert died[-1] == tests[index]
            living.append(new_worker(scheduler, workers + len(died), tests))
            scheduler.schedule()
        else:
            ran.append(tests[index])
            scheduler.mark_test_complete(worker, index)
    return ran, died


@pytest.mark.parametrize("mode", ["loadgroup", "loadscope", "loadfile"])
@given(UNITS, st.data(), st.integers(1, 4))
def test_every_test_runs_once_if_workers_die(mode: str, sizes: list[int], data: st.DataObject, workers: int) -> None:
    tests = [f"test_{unit}.py::test_{number}@group_{unit}" for unit, size in enumerate(sizes) for number in range(size)]
    deadly = data.draw(st.sets(st.sampled_from(tests)))
    ran, died = play(mode, tests, deadly, workers)
    assert sorted(died) == sorted(deadly)
    assert sorted(ran) == sorted(set(tests) - deadly)
