"""The tests that judge claims, as the files of a suite have them written: found without importing the files.

A test that pytest never collects (its file was not named on the command line, --lf left it out) is found by this alone.
"""

from __future__ import annotations

import ast
import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_CLAIM = "claim"
#: The file that marks a directory as an environment of Python, in which pytest does not look for tests either.
_ENVIRONMENT = "pyvenv.cfg"


@dataclass(frozen=True, kw_only=True)
class WrittenJudge:
    """A test of a claim: the file or class that holds it (`file.py`, `file.py::TestClass`), and its name in there."""

    claim: str
    holder: str
    name: str

    @property
    def test(self) -> str:
        """The name of the test, without parameters."""
        return f"{self.holder}::{self.name}"


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """What pytest takes for a test file, a class of tests and a test, and the directories into which it does not go."""

    files: Sequence[str]
    classes: Sequence[str]
    functions: Sequence[str]
    ignored: Sequence[str]


def files(directories: Iterable[Path], patterns: Patterns) -> Iterator[Path]:
    """Yields each test file in or below the directories once."""
    seen: set[Path] = set()
    for directory in directories:
        for path in _below(directory, patterns):
            if path not in seen and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns.files):
                seen.add(path)
                yield path


def judges(source: str, place: str, patterns: Patterns) -> Iterator[WrittenJudge]:
    """Yields the judges that the source of a file has; `place` is the file's name in the names of its tests.

    Raises:
        SyntaxError: the source is not Python.
    """
    if _CLAIM not in source:
        return
    tree = ast.parse(source)
    names = {_CLAIM} | {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                        for alias in node.names if alias.name == _CLAIM and alias.asname}  # fmt: skip
    yield from _judges(tree.body, place, None, names, patterns)


def _below(directory: Path, patterns: Patterns) -> Iterator[Path]:
    for name, below, found in os.walk(directory):
        here = Path(name)
        below[:] = sorted(each for each in below if not (here / each / _ENVIRONMENT).exists()
                          and not any(fnmatch.fnmatch(each, pattern) for pattern in patterns.ignored))
        yield from (here / each for each in sorted(found))


def _judges(body: Iterable[ast.stmt], holder: str, inherited: str | None, names: set[str],
            patterns: Patterns) -> Iterator[WrittenJudge]:
    body = list(body)
    inherited = next((claim for node in body for claim in _marks_of_all(node, names)), inherited)
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _matches(node.name, patterns.functions):
            if claim := _own(node.decorator_list, names) or inherited:
                yield WrittenJudge(claim=claim, holder=holder, name=node.name)
        elif isinstance(node, ast.ClassDef) and _matches(node.name, patterns.classes) and _is_collected(node):
            claim = _own(node.decorator_list, names) or inherited
            yield from _judges(node.body, f"{holder}::{node.name}", claim, names, patterns)


def _own(decorators: Iterable[ast.expr], names: set[str]) -> str | None:
    """The claim of a test or class: of several marks pytest takes the one nearest to it."""
    return next((claim for each in reversed(list(decorators)) for claim in _claims(each, names)), None)


def _marks_of_all(node: ast.stmt, names: set[str]) -> Iterator[str]:
    """The claims in `pytestmark`, which every test of a file or class judges that has no mark of its own."""
    if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["pytestmark"]:
        marks = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
        for mark in marks:
            yield from _claims(mark, names)


def _claims(mark: ast.expr, names: set[str]) -> Iterator[str]:
    match mark:
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(claim))]) if name in names:
            yield claim
        case ast.Call(func=ast.Attribute(attr="claim"), args=[ast.Constant(value=str(claim))]):
            yield claim


def _is_collected(node: ast.ClassDef) -> bool:
    """Whether pytest looks for tests in the class: not if it has a constructor, or says that it has none."""
    made = any(isinstance(each, ast.FunctionDef) and each.name in ("__init__", "__new__") for each in node.body)
    return not made and not any(ast.unparse(each) == "__test__ = False" for each in node.body)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name.startswith(pattern) or fnmatch.fnmatch(name, pattern) for pattern in patterns)
