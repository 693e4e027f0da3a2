"""How xdist hands out tests, put right for a worker that dies.

xdist 3.8 hands out again what a dead worker had already run, and gives the worker in its place one test where a worker
waits for two: the run then never ends (pytest-xdist issues 1323, 1327 and 1378). And the test in which the worker died
is run once more, until no worker may be replaced any more.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling, LoadGroupScheduling, LoadScopeScheduling

#: A worker runs a test once it knows the next one, or that there is none.
_NEEDED = 2


class _Mended(LoadScopeScheduling):  # type: ignore[misc]
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


class ByGroup(_Mended, LoadGroupScheduling):  # type: ignore[misc]
    """Keeps the tests of a group together."""


class ByScope(_Mended):
    """Keeps the tests of a module or class together."""


class ByFile(_Mended, LoadFileScheduling):  # type: ignore[misc]
    """Keeps the tests of a file together."""


_MENDED = {"loadgroup": ByGroup, "loadscope": ByScope, "loadfile": ByFile}


def scheduler(config: pytest.Config, log: Any) -> _Mended | None:
    """Returns what hands out the tests, or nothing for a mode that needs no mending."""
    mended = _MENDED.get(config.getoption("dist"))
    return mended(config, log) if mended else None
