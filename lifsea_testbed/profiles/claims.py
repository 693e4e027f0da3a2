"""The catalogue of claims: each a promise in one sentence, with its source; profiles list those that an OS makes."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from dataclasses import dataclass

#: The file of all claims, in the same directory as the profiles.
CATALOGUE = "claims.toml"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A promise that tests can judge."""

    id: str
    promise: str
    source: str


@functools.cache
def catalogue() -> dict[str, Claim]:
    """Returns every claim by its id, in the order of claims.toml."""
    text = importlib.resources.files("lifsea_testbed.profiles").joinpath(CATALOGUE).read_text("utf-8")
    return {name: Claim(id=name, **fields) for name, fields in tomllib.loads(text).items()}
