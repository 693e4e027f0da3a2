"""The tests of claims in a source, as pytest would collect them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifsea_testbed.plugin import judges_written
from lifsea_testbed.plugin.judges_written import Patterns

PYTEST = Patterns(files=["test_*.py", "*_test.py"], classes=["Test"], functions=["test"],
                  ignored=["*.egg", ".*", "build", "venv"])  # fmt: skip


def found(source: str) -> dict[str, str]:
    return {judge.test: judge.claim for judge in judges_written.judges(source, "a.py", PYTEST)}


@pytest.mark.parametrize(("source", "judges"), [
    ("@claim('no-sshd')\ndef test_one(): pass", {"a.py::test_one": "no-sshd"}),
    ("@lifsea_testbed.claim('no-sshd')\nasync def test_one(): pass", {"a.py::test_one": "no-sshd"}),
    ("@pytest.mark.claim('no-sshd')\ndef test_one(): pass", {"a.py::test_one": "no-sshd"}),
    ("from lifsea_testbed import claim as c\n@c('no-sshd')\ndef test_one(): pass", {"a.py::test_one": "no-sshd"}),
    ("@claim('no-sshd')\n@claim('no-python')\ndef test_one(): pass", {"a.py::test_one": "no-python"}),
    ("pytestmark = claim('no-sshd')\ndef test_one(): pass\n@claim('no-python')\ndef test_two(): pass",
     {"a.py::test_one": "no-sshd", "a.py::test_two": "no-python"}),
    ("@claim('no-sshd')\nclass TestA:\n  def test_one(self): pass\n  class TestB:\n    def test_two(self): pass",
     {"a.py::TestA::test_one": "no-sshd", "a.py::TestA::TestB::test_two": "no-sshd"}),
    ("class TestA:\n  pytestmark = [mark, claim('no-sshd')]\n  def test_one(self): pass",
     {"a.py::TestA::test_one": "no-sshd"}),
    ("@claim('no-sshd')\ndef helper(): pass", {}),
    ("@other('no-sshd')\ndef test_one(): claim", {}),
    ("@claim('no-sshd')\nclass Base:\n  def test_one(self): pass", {}),
    ("@claim('no-sshd')\nclass TestA:\n  def __init__(self): pass\n  def test_one(self): pass", {}),
    ("@claim('no-sshd')\nclass TestA:\n  __test__ = False\n  def test_one(self): pass", {}),
    ("def test_one():\n  '''@claim('no-sshd')'''", {}),
])  # fmt: skip
def test_the_judges_of_a_source(source: str, judges: dict[str, str]) -> None:
    assert found(source) == judges


def test_pytest_collects_the_same(pytester: pytest.Pytester) -> None:
    """The names are those that pytest gives its tests."""
    source = ("from lifsea_testbed import claim\n@claim('no-sshd')\ndef test_one(): pass\n"
              "@claim('no-sshd')\nclass TestA:\n  def test_two(self): pass\n"
              "@claim('no-sshd')\ndef helper(): pass\n")  # fmt: skip
    items, _ = pytester.inline_genitems(pytester.makepyfile(a=source))
    assert {item.nodeid for item in items} == set(found(source))


def test_the_files_are_those_that_pytest_looks_into(tmp_path: Path) -> None:
    for name in ("test_a.py", "b_test.py", "helper.py", "below/test_c.py", "build/test_d.py", ".git/test_e.py",
                 "own/test_f.py", "own/pyvenv.cfg"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = judges_written.files([tmp_path, tmp_path / "below"], PYTEST)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["b_test.py", "test_a.py", "below/test_c.py"]


def test_a_source_that_is_not_python_is_an_error_only_if_it_may_have_judges() -> None:
    assert found("def test_one(: pass") == {}
    with pytest.raises(SyntaxError):
        found("@claim('no-sshd')\ndef test_one(: pass")
