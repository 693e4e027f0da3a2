"""Everything about xdist: how many workers, what they receive, how tests are grouped and handed out.

xdist 3.8 hands out again what a dead worker had already run, and gives the worker in its place one test where a worker
waits for two: the run then never ends (pytest-xdist issues 1323, 1327 and 1378). And the test in which the worker died
is run once more, until no worker may be replaced any more. The schedulers here mend that.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling, LoadGroupScheduling, LoadScopeScheduling

from lifsea_testbed.errors import Explained
from lifsea_testbed.machine import preflight
from lifsea_testbed.machine.context import RunContext
from lifsea_testbed.plugin import options, ordering
from lifsea_testbed.plugin.items import fixtures_of
from lifsea_testbed.support import private_dir

#: What the controller sends to its workers.
_CONTEXT, _GROUPS, _WORKER, _CONTROLLER = "lifsea_context", "lifsea_groups", "lifsea_worker", "lifsea_controller"

#: A worker runs a test once it knows the next one, or that there is none.
_NEEDED = 2


def is_worker(config: pytest.Config) -> bool:
    """Tells whether this process is a worker; the controller, or a run without xdist, is not."""
    return hasattr(config, "workerinput")


def _received(config: pytest.Config, key: str) -> Any:
    """Returns a value that the controller sent to this worker; None in any other process."""
    return getattr(config, "workerinput", {}).get(key)


def receive_context(config: pytest.Config) -> RunContext | None:
    """Returns the context that the controller sent, and ends this worker when the controller ends.

    Raises:
        ImageRefused: an image was changed since the controller examined it.
    """
    text = _received(config, _CONTEXT)
    if text is None:
        return None
    private_dir.die_with_parent(_received(config, _CONTROLLER))
    # A worker knows no more than the command line.
    config.option.loadgroup = _received(config, _GROUPS)
    return RunContext.from_json(text)


def send_result(config: pytest.Config, key: str, value: str) -> None:
    """Sends a value to the controller, which has it when this worker ends; does nothing in any other process."""
    if is_worker(config):
        config.workeroutput[key] = value  # type: ignore[attr-defined]


def evidence_folder(config: pytest.Config) -> str:
    """Returns the name of the folder of this worker's evidence; empty where no other worker runs the same test."""
    return _received(config, _WORKER) or ""


def auto_workers(config: pytest.Config) -> int | None:
    """Returns how many workers `-n auto` starts: bounded by memory as well as by processors, a machine each."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    try:
        return preflight.workers(options.of(config).instance_type)
    except Explained:
        return 1  # preflight reports it before anything starts


def workers(config: pytest.Config) -> int:
    """Returns how many processes run tests at once; the main process knows."""
    return getattr(config.option, "numprocesses", None) or 1


def group_by_scenario(items: list[pytest.Item]) -> None:
    """Marks the tests of one scenario as a group, unless they are of one already."""
    for item in items:
        name = ordering.scenario_of(fixtures_of(item))
        if name and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(name))


def report_groups(session: pytest.Session) -> Generator[None, None, None]:
    """Puts its group into each test's name while a worker reports its tests, and takes it out again.

    xdist 3.8 does so itself, but by an attribute that pytest 9.2 does not look at: no group would come through.
    """
    if getattr(session.config.option, "loadgroup", False):
        for item in session.items:
            marker = item.get_closest_marker("xdist_group")
            if marker and marker.args and "@" not in item.nodeid:
                _rename(item, f"{item.nodeid}@{marker.args[0]}")
    yield
    for item in session.items:
        _rename(item, ordering.without_group(item.nodeid))


class _CrashSafeScheduling(LoadScopeScheduling):  # type: ignore[misc]
    def remove_node(self, node: Any) -> str | None:
        """Hands out what a dead worker has not run, but for the test in which it died, which is returned."""
        workload = self.assigned_work[node]
        pending = [(unit, test) for unit in workload.values() for test, is_done in unit.items() if not is_done]
        if not pending:
            del self.assigned_work[node]
            return None
        unit, died_in = pending[0]
        unit[died_in] = True
        del self.assigned_work[node]
        self.workqueue.update({name: unit for name, unit in workload.items() if not all(unit.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return str(died_in)

    def _reschedule(self, node: Any) -> None:
        """Gives a worker enough to go on, or tells it that there is no more."""
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < _NEEDED:
            super()._reschedule(node)


class ByGroup(_CrashSafeScheduling, LoadGroupScheduling):  # type: ignore[misc]
    """Keeps the tests of a group together."""


class ByScope(_CrashSafeScheduling):
    """Keeps the tests of a module or class together."""


class ByFile(_CrashSafeScheduling, LoadFileScheduling):  # type: ignore[misc]
    """Keeps the tests of a file together."""


_SCHEDULERS = {"loadgroup": ByGroup, "loadscope": ByScope, "loadfile": ByFile}


class Controller:
    """The hooks of the process that starts workers.

    `troubles` lists the workers that died, `results` has what the others sent, the last one's where keys are equal.
    """

    def __init__(self, config: pytest.Config, context: RunContext) -> None:
        self.troubles: list[str] = []
        self.results: dict[str, Any] = {}
        self._config = config
        self._context = context

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Sends a worker the context of the run."""
        dist = self._config.option.dist
        # With --dist each, every worker runs each test, and has its own evidence of it.
        node.workerinput |= {_CONTEXT: self._context.to_json(), _GROUPS: dist == "loadgroup",
                             _WORKER: node.gateway.id if dist == "each" else "", _CONTROLLER: os.getpid()}  # fmt: skip

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> object:
        """Returns a scheduler that goes on after a worker died, or nothing for a mode that needs no mending."""
        scheduling = _SCHEDULERS.get(config.getoption("dist"))
        return scheduling(config, log) if scheduling else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str) -> None:
        """Records a test whose worker died: nothing is known of what it judges."""
        self.troubles.append(f"a worker died in {ordering.without_group(crashitem)}")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Takes the results of a worker that ended."""
        self.results |= getattr(node, "workeroutput", {})

    def end_workers(self) -> None:
        """Ends the workers of a run that did not start, which pytest leaves running."""
        session: Any = self._config.pluginmanager.get_plugin("dsession")
        if session is not None:
            session.pytest_sessionfinish()


def _rename(item: Any, name: str) -> None:
    if name == item.nodeid:
        return
    if hasattr(item, "_id"):
        from _pytest.nodeid import coerce_node_id

        item._id = coerce_node_id(name)
    else:
        item._nodeid = name
