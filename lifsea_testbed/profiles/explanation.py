"""Explains a claim: its promise, the profiles that make it, the tests that judge it, the mutants that break it."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.resources
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

from lifsea_testbed.errors import CallerError
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.claims import Claim, catalogue

_PACKAGE = "lifsea_testbed.suites"
#: The number of similar names in the hint for an unknown claim.
_SUGGESTIONS = 3


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A test that judges a claim: its file in suites/, its line, its name, and the first paragraph of its docstring."""

    file: str
    line: int
    name: str
    asserts: str


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """An image that breaks the claim: its name, the change in it, and why that is easy to miss."""

    name: str
    change: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A claim with the names of the profiles that make it, its judges, and its mutants."""

    claim: Claim
    profiles: tuple[str, ...]
    judges: tuple[Judge, ...]
    mutants: tuple[Mutant, ...]

    def __str__(self) -> str:
        """The explanation as text of several lines."""
        lines = [f"{self.claim.id}: {self.claim.promise}", "", f"source    {self.claim.source}",
                 f"profiles  {', '.join(self.profiles) or 'none'}"]  # fmt: skip
        lines += [f"needs     {', '.join(map(str, self.claim.needs))}"] if self.claim.needs else []
        lines += ["", "judged by"]
        lines += [f"  suites/{judge.file}:{judge.line} {judge.name}\n    {judge.asserts}" for judge in self.judges]
        lines += ["", "broken by" if self.mutants else "broken by none of the mutants (see docs/mutants.md)"]
        lines += [f"  mutant:{mutant.name}\n    {mutant.change} {mutant.why}" for mutant in self.mutants]
        return "\n".join(lines)


def explain(name: str) -> Explanation:
    """Returns the explanation of the claim of that name.

    Raises:
        CallerError: there is no such claim; the hint has similar names.
    """
    if name not in catalogue():
        similar = difflib.get_close_matches(name, catalogue(), n=_SUGGESTIONS, cutoff=0.4)
        hint = ", ".join(similar) or "lifsea-testbed explain lists all claims"
        raise CallerError(f"unknown claim {name!r}", hint=hint)
    makers = tuple(profile for profile, claims in _promises().items() if name in claims)
    return Explanation(claim=catalogue()[name], profiles=makers, judges=_judges().get(name, ()),
                       mutants=_mutants().get(name, ()))  # fmt: skip


def overview() -> str:
    """Returns every claim with its promise, one a line."""
    width = max(map(len, catalogue()))
    return "\n".join(f"{claim.id:<{width}}  {claim.promise}" for claim in catalogue().values())


@functools.cache
def _promises() -> dict[str, frozenset[str]]:
    """The claims that each profile makes."""
    return {name: frozenset(profiles.load(name).claims) for name in profiles.names()}


@functools.cache
def _judges() -> dict[str, tuple[Judge, ...]]:
    """The judges of each claim, from the source of the suites."""
    found: dict[str, tuple[Judge, ...]] = {}
    for entry in sorted(importlib.resources.files(_PACKAGE).iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            for claim, judge in _judges_in(entry.name, entry.read_text("utf-8")):
                found[claim] = (*found.get(claim, ()), judge)
    return found


def _judges_in(file: str, source: str) -> Iterator[tuple[str, Judge]]:
    for node in (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)):
        for mark in node.decorator_list:
            match mark:
                case ast.Call(func=ast.Name(id="claim"), args=[ast.Constant(value=str(claim))]):
                    asserts = (ast.get_docstring(node) or "").partition("\n\n")[0]
                    yield claim, Judge(file=file, line=node.lineno, name=node.name, asserts=asserts)


@functools.cache
def _mutants() -> dict[str, tuple[Mutant, ...]]:
    found: dict[str, tuple[Mutant, ...]] = {}
    for entry in sorted(importlib.resources.files("lifsea_testbed.mutants").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            fields = tomllib.loads(entry.read_text("utf-8"))
            mutant = Mutant(name=entry.name.removesuffix(".toml"), change=fields["change"], why=fields["why"])
            found[fields["claim"]] = (*found.get(fields["claim"], ()), mutant)
    return found
