"""Whatever an image or a guest writes, a parser returns a value or raises an error that it declares."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.__main__ import fuzz, undeclared
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import TARGETS, Target
from tests.support import ROOT

#: The inputs of one parser in each run of the tests, and in a nightly one.
_FEW, _MANY = 150, 1_000_000


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_raises_what_it_declares(name: str) -> None:
    assert fuzz(name, TARGETS[name], _FEW).errors == {}


@pytest.mark.parametrize("name", TARGETS)
def test_a_sound_input_is_read(name: str) -> None:
    """Otherwise its changed copies would be refused at the first look."""
    for data in TARGETS[name].inputs():
        TARGETS[name].read(data)


@pytest.mark.nightly
@pytest.mark.parametrize("name", TARGETS)
def test_a_million_inputs_end_within_the_memory_of_a_reader(name: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", name, "--inputs", str(_MANY)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_an_error_that_is_not_declared_is_found() -> None:
    strict = Target(inputs=lambda: [b"7"], read=int, errors=())
    assert undeclared(strict, b"7") == ""
    assert "ValueError: invalid literal" in undeclared(strict, b"x")


def test_the_inputs_are_the_same_for_a_seed() -> None:
    first, again, other = (Mutator([b"some words", b"others"], seed) for seed in (1, 1, 2))
    drawn = [first.next() for _ in range(50)]
    assert drawn == [again.next() for _ in range(50)] != [other.next() for _ in range(50)]
    assert len(set(drawn)) > 30
