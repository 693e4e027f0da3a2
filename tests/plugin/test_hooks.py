"""The extension points, by the examples in their own docstrings: each is written into a conftest.py and used."""

from __future__ import annotations

import inspect
import re
import textwrap

import pytest

from lifsea_testbed.plugin import hooks
from lifsea_testbed.plugin.hooks import Extensions
from lifsea_testbed.profiles.profile import UpgradesSection
from lifsea_testbed.upgrade.tools import upgrade_tool
from tests.support.boot_sector import raw_image
from tests.support.fakes import FakeShell
from tests.support.quick import PROFILE, lay_out

SUITE = '''
from lifsea_testbed import claim

@claim("boots-to-ready")
def test_boots(machine):
    """It boots, and a plugin's subject is there."""
    assert type(machine.guest.subject("settings")).__name__ == "Settings"

@claim("no-sshd")
def test_no_such_subject(machine):
    """A subject that nobody registered is named with those that are."""
    machine.guest.subject("weather")
'''


def examples(*names: str) -> str:
    """The Python code in the docstrings of those hooks, or of all."""
    found = []
    for name, hook in vars(hooks).items():
        if name.startswith("pytest_lifsea_") and (not names or name in names):
            blocks = re.findall(r"::\n\n((?:(?:    .*)?\n)+)", f"{inspect.getdoc(hook)}\n")
            found += [textwrap.dedent(block) for block in blocks if "def " in block]
    return "\n\n".join(found)


def test_each_hook_has_an_example() -> None:
    names = [name for name in vars(hooks) if name.startswith("pytest_lifsea_")]
    assert len(names) == 4
    assert [name for name in names if f"def {name}(" not in examples(name)] == []


@pytest.mark.boots
def test_a_subject_and_a_report_of_a_plugin_are_used(pytester: pytest.Pytester) -> None:
    options = lay_out(pytester.path, SUITE, conftest=examples())
    shown = pytester.runpytest_subprocess(*options, "-p", "no:hypothesispytest")
    assert (pytester.path / "reports/verdict.txt").read_text().startswith("broken: ")
    shown.stdout.fnmatch_lines(["*CallerError: *weather*", "*settings*"])
    shown.assert_outcomes(passed=1, failed=1)


@pytest.mark.boots
def test_an_access_method_of_a_plugin_is_used(pytester: pytest.Pytester) -> None:
    """A boot sector has no prompt: the error names the access method of the profile."""
    method = examples("pytest_lifsea_access_methods").replace('console.send(b"s\\n")', 'open("called", "w").close()')
    options = lay_out(pytester.path, SUITE, conftest=method)
    profile = PROFILE.replace('methods = ["none"]', 'methods = ["menu"]\nline = "ttyS0"')
    profile = profile.replace("within = 6", "within = 0.5")
    (pytester.path / "quick.toml").write_text(profile)
    shown = pytester.runpytest_subprocess(*options, "-p", "no:hypothesispytest")
    shown.stdout.fnmatch_lines(["*expected: a root shell by menu"])
    assert (pytester.path / "called").exists()


def test_an_upgrade_tool_of_a_plugin_is_used(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(examples("pytest_lifsea_upgrade_tools"))
    extensions = Extensions.collect(pytester.parseconfigure())
    section = UpgradesSection(tool="slots")
    tool = upgrade_tool(FakeShell({"slotctl current": "b\n"}), section, extensions.upgrade_tools)
    assert tool.running() == "b"


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ('methods = ["none"]', 'methods = ["maze"]', "access.methods: unknown access method 'maze' (hint: one of *login*"),
    ("[boot]", '[upgrades]\ntool = "magic"\n[boot]', "upgrades.tool = 'magic': unknown upgrade tool (hint: one of *"),
])  # fmt: skip
def test_a_name_that_no_plugin_registered_is_refused(
    pytester: pytest.Pytester, old: str, new: str, complaint: str
) -> None:
    options = lay_out(pytester.path, SUITE)
    raw_image(pytester.path / "disk.raw")
    (pytester.path / "quick.toml").write_text(PROFILE.replace(old, new))
    shown = pytester.runpytest_subprocess(*options, "-p", "no:hypothesispytest")
    assert shown.ret == pytest.ExitCode.USAGE_ERROR
    shown.stderr.fnmatch_lines([f"ERROR: {complaint}"])


def test_of_two_plugins_the_later_one_wins(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_lifsea_guest_subjects():\n    return {'a': 1, 'b': 2}\n")
    pytester.makepyfile(later="def pytest_lifsea_guest_subjects():\n    return {'b': 3}\n")
    pytester.syspathinsert()
    config = pytester.parseconfigure()
    config.pluginmanager.import_plugin("later")
    assert sorted(map(str, Extensions.collect(config).guest_subjects.values())) == ["1", "3"]
