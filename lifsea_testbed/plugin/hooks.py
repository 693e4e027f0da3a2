"""Extension points: hooks that a user's plugin, or the conftest.py beside the suites, may implement.

Each is called once, when a run starts (`pytest_lifsea_report`: when it ends). Names that a hook adds may be used in
profiles: `access.methods`, `upgrades.tool`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

T = TypeVar("T")

if TYPE_CHECKING:
    from lifsea_testbed.machine.access import ConsoleAccess
    from lifsea_testbed.profiles.profile import Profile, UpgradesSection
    from lifsea_testbed.report.document import Document
    from lifsea_testbed.support.protocols import Shell
    from lifsea_testbed.upgrade.tools import UpgradeTool


@pytest.hookspec
def pytest_lifsea_access_methods() -> Mapping[str, ConsoleAccess]:
    """Returns access methods by name: each brings a console to the prompt of a root shell.

    Example, for an image whose console runs a menu first::

        def through_menu(console, access, deadline):
            console.send(b"s\\n")

        def pytest_lifsea_access_methods():
            return {"menu": through_menu}

    and in the profile::

        [access]
        methods = ["menu"]
        line = "ttyS0"
    """
    return {}


@pytest.hookspec
def pytest_lifsea_upgrade_tools() -> Mapping[str, Callable[[Shell, UpgradesSection], UpgradeTool]]:
    """Returns upgrade tools by name: each makes an `UpgradeTool` from a shell and the profile's section `upgrades`.

    Example::

        class Slots:
            def __init__(self, shell, section):
                self.shell = shell

            def running(self):
                return self.shell.run("slotctl current").stdout.strip()

            ...

        def pytest_lifsea_upgrade_tools():
            return {"slots": Slots}
    """
    return {}


@pytest.hookspec
def pytest_lifsea_guest_subjects() -> Mapping[str, Callable[[Shell, Profile], object]]:
    """Returns guest subjects by name: `machine.guest.subject(name)` is made from the machine's shell and its profile.

    Example::

        class Settings:
            def __init__(self, shell, profile):
                self.shell = shell

            def get(self, name):
                return self.shell.run(["apiclient", "get", name]).stdout

        def pytest_lifsea_guest_subjects():
            return {"settings": Settings}
    """
    return {}


@pytest.hookspec
def pytest_lifsea_report(document: Document, reports: Path) -> None:
    """Writes a further report when the verdict is settled, into `reports`: what is there will be in that of --reports.

    Example::

        def pytest_lifsea_report(document, reports):
            (reports / "verdict.txt").write_text(f"{document.verdict}: {document.why}")
    """


@dataclass(frozen=True, kw_only=True)
class Extensions:
    """The extensions of one run, each under the name by which a profile or a test refers to it."""

    access_methods: Mapping[str, ConsoleAccess] = field(default_factory=dict)
    upgrade_tools: Mapping[str, Callable[[Shell, UpgradesSection], UpgradeTool]] = field(default_factory=dict)
    guest_subjects: Mapping[str, Callable[[Shell, Profile], object]] = field(default_factory=dict)

    @classmethod
    def collect(cls, config: pytest.Config) -> Extensions:
        """Calls the hooks; of two plugins that use one name, the one that was registered last wins."""
        hook = config.hook
        return cls(access_methods=_merged(hook.pytest_lifsea_access_methods()),
                   upgrade_tools=_merged(hook.pytest_lifsea_upgrade_tools()),
                   guest_subjects=_merged(hook.pytest_lifsea_guest_subjects()))  # fmt: skip


def _merged(results: list[Mapping[str, T]]) -> dict[str, T]:
    # pluggy calls the implementation first that was registered last.
    return {name: value for result in reversed(results) for name, value in result.items()}
