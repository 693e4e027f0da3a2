"""The judges of each claim, known before anything is deselected: a claim passes only if all of them were run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from lifsea_testbed.plugin import judges_written, ordering, xdist
from lifsea_testbed.plugin.items import claim_of
from lifsea_testbed.plugin.judges_written import Patterns, WrittenJudge

#: The result of a worker: what it collected.
COLLECTED = "lifsea_judges"


class JudgeRegistry:
    """Records which tests judge which claim, in each process that collects tests.

    `troubles` lists what could not be collected: nothing is known of the judges in it.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.troubles: list[str] = []
        self._config = config
        self._judges: set[tuple[str, str]] = set()
        #: The files and classes of which every test was seen, and the classes that were seen in them.
        self._whole: set[str] = set()
        self._classes: set[str] = set()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Records what a file or class has, before --lf leaves out tests of it, or a name selects one."""
        report = yield
        # A file that --lf leaves out has an empty report, and no class.
        if report.passed and report.result and isinstance(collector, pytest.Module | pytest.Class):
            self._whole.add(self._name(collector))
        for node in report.result if report.passed else ():
            if isinstance(node, pytest.Class):
                self._classes.add(self._name(node))
            elif isinstance(node, pytest.Item):
                self._record([node])
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Records what could not be collected, in the main process that of every worker."""
        line = f"{report.nodeid or 'the suite'} could not be collected"
        if report.failed and line not in self.troubles:
            self.troubles.append(line)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Records the tests that plugins added or marked, before any plugin deselects some."""
        self._record(items)
        yield
        self._record(items)

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        """Records a judge that was marked as one after it was collected, and then deselected."""
        self._record(items)

    def pytest_collection_finish(self) -> None:
        """Sends what this process collected to the controller."""
        collected = {"judges": sorted(self._judges), "whole": sorted(self._whole), "classes": sorted(self._classes)}
        xdist.send_result(self._config, COLLECTED, json.dumps(collected))

    def by_claim(self, received: str = "") -> Mapping[str, frozenset[str]]:
        """Returns the tests that judge each claim; in a controller of xdist, `received` is what a worker collected.

        Those of files that were not collected are found as they are written, in the directories of the suites.
        """
        if received:
            collected = json.loads(received)
            self._judges |= {(claim, test) for claim, test in collected["judges"]}
            self._whole |= set(collected["whole"])
            self._classes |= set(collected["classes"])
        found: dict[str, set[str]] = {}
        for claim, test in (*self._judges, *((judge.claim, judge.test) for judge in self._written())):
            found.setdefault(claim, set()).add(test)
        return {claim: frozenset(tests) for claim, tests in found.items()}

    def _record(self, items: Iterable[pytest.Item]) -> None:
        self._judges |= {(claim, ordering.without_group(item.nodeid)) for item in items if (claim := claim_of(item))}

    def _written(self) -> Iterator[WrittenJudge]:
        """The judges in files and classes that were not collected."""
        patterns = Patterns(files=self._config.getini("python_files"), classes=self._config.getini("python_classes"),
                            functions=self._config.getini("python_functions"),
                            ignored=self._config.getini("norecursedirs"))  # fmt: skip
        for path in judges_written.files(_directories(self._config), patterns):
            place = self._place(path)
            if place in self._whole and not any(name.startswith(f"{place}::") for name in self._classes):
                continue
            try:
                found = list(judges_written.judges(path.read_text("utf-8"), place, patterns))
            except (OSError, ValueError, SyntaxError) as error:
                self.troubles.append(f"{place} cannot be searched for judges: {error}")
                continue
            yield from (judge for judge in found if not self._is_known(judge.holder))

    def _is_known(self, holder: str) -> bool:
        """Whether the tests of a file or class were collected, if it has any."""
        around = holder.rpartition("::")[0]
        if holder in self._whole or not around:
            return holder in self._whole
        return self._is_known(around) and holder not in self._classes

    def _name(self, node: pytest.Collector) -> str:
        classes = [each.name for each in node.listchain() if isinstance(each, pytest.Class)]
        return "::".join([self._place(node.path), *classes])

    def _place(self, path: Path) -> str:
        root = self._config.rootpath
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _directories(config: pytest.Config) -> Iterator[Path]:
    """The directories of the suites: those that the command line names, and those of the files that it names."""
    for argument in config.args:
        path = _path(config, argument.partition("::")[0])
        if path is not None:
            yield path if path.is_dir() else path.parent


def _path(config: pytest.Config, name: str) -> Path | None:
    path = config.invocation_params.dir / name
    if path.exists() or not config.option.pyargs:
        return path
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = list(found.submodule_search_locations or ()) if found else []
    origin = [found.origin] if found and found.origin else []
    return next((Path(place) for place in (*places, *origin)), None)
