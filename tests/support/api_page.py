"""docs/api.md: the public API, the fixtures and the extension points, from their docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

import lifsea_testbed
from lifsea_testbed import _MODULES
from tests.support.house import PACKAGE

_HEAD = """# The public API

Generated from the docstrings (`python -m tests.support.generate`); a test keeps it. Suites and users' own tests import
these names from `lifsea_testbed` and nothing below it; everything else is internal and may change.

"""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def text() -> str:
    """Returns the page."""
    names = "\n".join(entry for name in lifsea_testbed.__all__ for entry in _entry(name))
    fixtures = "\n".join(_fixtures())
    hooks = "\n".join(_hooks())
    return (f"{_HEAD}## Fixtures\n\n{fixtures}\n## Names\n\n{names}\n## Extension points\n\n"
            "Hooks that a plugin, or the `conftest.py` beside the suites, may implement.\n\n"
            f"{hooks}").rstrip() + "\n"  # fmt: skip


def _entry(name: str) -> Iterator[str]:
    path = PACKAGE / f"{_MODULES[name].replace('.', '/')}.py"
    tree = ast.parse(path.read_text("utf-8"))
    if _MODULES[name].endswith(f".{name}"):
        yield from _module(name, tree)
        return
    node = next((node for node in tree.body if name in _names(node)), None)
    if isinstance(node, ast.ClassDef):
        yield from _class(node)
    elif isinstance(node, _Function):
        yield f"### `{name}{_signature(node)}`\n\n{_doc(node)}\n"
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        yield f"### `{name}`\n\n`{ast.unparse(node)}`\n"
    else:
        raise LookupError(f"{path} does not define {name}")


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | _Function):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]


def _module(name: str, tree: ast.Module) -> Iterator[str]:
    yield f"### Module `{name}`\n\n{ast.get_docstring(tree)}\n"
    for node in tree.body:
        if isinstance(node, _Function) and not node.name.startswith("_"):
            yield f"- `{name}.{node.name}{_signature(node)}`: {_first(node)}"
    yield ""


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield f"### `{node.name}{f'({bases})' if bases else ''}`\n\n{_doc(node)}\n"
    members = [member for member in _members(node) if not member.startswith("- `_")]
    if members:
        yield "\n".join(members) + "\n"


def _members(node: ast.ClassDef) -> Iterator[str]:
    """The public fields, properties and methods, a line each."""
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            yield f"- `{ast.unparse(member)}`"
        elif isinstance(member, _Function) and not member.name.startswith("_"):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in member.decorator_list}
            returns = f" -> {ast.unparse(member.returns)}" if member.returns else ""
            shown = returns.replace(" ->", ":", 1) if decorators & {"property", "cached_property"} else \
                _signature(member)  # fmt: skip
            yield f"- `{member.name}{shown}`: {_first(member)}"
        elif isinstance(member, ast.Assign) and isinstance(member.targets[0], ast.Name):
            yield f"- `{ast.unparse(member)}`"


def _signature(node: _Function) -> str:
    arguments = ast.unparse(node.args)
    arguments = arguments.removeprefix("self, ").removeprefix("cls, ") if arguments not in ("self", "cls") else ""
    return f"({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def _doc(node: ast.ClassDef | _Function) -> str:
    """The docstring; what it raises becomes a list."""
    doc = _example(ast.get_docstring(node) or "")
    before, _, raises = doc.partition("\nRaises:\n")
    lines = "\n".join(f"- raises {line}" for line in _joined(inspect.cleandoc(raises)))
    return f"{before.rstrip()}\n\n{lines}" if raises else doc


def _joined(text: str) -> list[str]:
    """Lines whose continuation is indented, each as one."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and found:
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
    return found


def _first(node: _Function) -> str:
    return (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")


def _functions(module: str) -> Iterator[_Function]:
    tree = ast.parse((PACKAGE / module).read_text("utf-8"))
    yield from (node for node in tree.body if isinstance(node, _Function))


def _fixtures() -> Iterator[str]:
    for node in _functions("plugin/fixtures.py"):
        marks = [ast.unparse(mark) for mark in node.decorator_list]
        if any(mark.startswith("pytest.fixture") for mark in marks):
            scope = "session" if any("session" in mark for mark in marks) else "test"
            yield f"- `{node.name}` ({scope}): {_first(node)}"
    yield ""


def _hooks() -> Iterator[str]:
    for node in _functions("plugin/hooks.py"):
        if any(ast.unparse(mark) == "pytest.hookspec" for mark in node.decorator_list):
            yield f"### `{node.name}{_signature(node)}`\n\n{_example(ast.get_docstring(node) or '')}\n"


def _example(doc: str) -> str:
    """The docstring with its literal blocks as code."""
    blocks = re.split(r"::\n\n((?:(?:    .*)?\n)+?)(?=\S|\Z)", f"{doc}\n")
    parts = [blocks[0]]
    for code, prose in zip(blocks[1::2], blocks[2::2], strict=True):
        text = textwrap.dedent(code).strip("\n")
        parts += [f":\n\n```{'toml' if text.startswith('[') else 'python'}\n{text}\n```\n\n", prose]
    return "".join(parts).rstrip()
