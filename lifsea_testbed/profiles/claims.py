"""The catalogue of claims: each a promise in one sentence, with its source; profiles list those that an OS makes."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

#: The file of all claims, in the same directory as the profiles.
CATALOGUE = "claims.toml"
#: The claim that an image breaks which does not come up; no other can be judged of it.
COMES_UP = "boots-to-ready"


@dataclass(frozen=True, kw_only=True)
class Need:
    """A key of a profile without which a claim cannot be judged.

    With `only_if`, a key and a value, it is needed by those profiles alone in which that key has that value.
    """

    key: str
    only_if: tuple[str, str] | None = None

    def __str__(self) -> str:
        """The key, with the condition, as claims.toml has them."""
        return f"{self.key} if {' = '.join(self.only_if)}" if self.only_if else self.key


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A promise that tests can judge, and the data of a profile that they judge it by."""

    id: str
    promise: str
    source: str
    needs: tuple[Need, ...] = ()


@functools.cache
def catalogue() -> dict[str, Claim]:
    """Returns every claim by its id, in the order of claims.toml."""
    text = importlib.resources.files("lifsea_testbed.profiles").joinpath(CATALOGUE).read_text("utf-8")
    return {name: _claim(name, **fields) for name, fields in tomllib.loads(text).items()}


def _claim(name: str, *, promise: str, source: str, needs: Sequence[str] = ()) -> Claim:
    return Claim(id=name, promise=promise, source=source, needs=tuple(map(_need, needs)))


def _need(text: str) -> Need:
    """Reads `section.key`, or `section.key if section.other = value`."""
    key, _, condition = text.partition(" if ")
    other, _, value = condition.partition(" = ")
    return Need(key=key, only_if=(other, value) if condition else None)
