"""Lines end at a newline and nowhere else: str.splitlines cuts paths and the output of commands at more."""

from __future__ import annotations

import ast

import pytest

from lifsea_testbed.guest.files import Files
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import CommandResult
from tests.support.fakes import FakeShell
from tests.support.house import modules, name_of

#: Everything that str.splitlines takes for the end of a line, but the newline.
ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize(("text", "lines"), [
    ("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("a\n\n", ["a", ""]), ("\na", ["", "a"]),
    *((f"a{end}b\nc\n", [f"a{end}b", "c"]) for end in ENDS),
])  # fmt: skip
def test_a_line_ends_at_a_newline_and_nowhere_else(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines
    assert split_lines(text.encode()) == [line.encode() for line in lines]


@pytest.mark.parametrize("end", ENDS)
def test_the_output_of_a_command_has_the_lines_that_it_printed(end: str) -> None:
    result = CommandResult(script="", exit_status=0, output=f"a{end}b\n\nc{end}\n".encode(), errors=b"", duration=0.0)
    assert result.lines == [f"a{end}b", f"c{end}"]


@pytest.mark.parametrize("end", ENDS)
def test_a_path_is_not_cut(end: str) -> None:
    shell = FakeShell({"ls": f"one{end}name\nother\n"})
    assert Files(shell).names_in("/etc") == [f"one{end}name", "other"]


def test_no_module_splits_lines_in_another_way() -> None:
    """The exception reads a console's bytes and keeps the ends."""
    found = {name_of(path) for path in modules() for node in ast.walk(ast.parse(path.read_text("utf-8")))
             if isinstance(node, ast.Attribute) and node.attr == "splitlines"}  # fmt: skip
    assert found <= {"console.transcript"}, "support.lines.split_lines"
