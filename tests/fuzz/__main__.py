"""Fuzzes parsers: python -m tests.fuzz [NAME …] --inputs N --seed S; all of them, or those of an image (--image).

The process has the memory that a confined reader has. Each input that ends in an error that the parser does not declare
is kept in a file. The exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.support.reader_process import MEMORY
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import TARGETS, Target

#: How often progress is shown (seconds).
_EVERY = 60.0
#: After how many inputs what refers to itself is removed: a file system with its cache, of megabytes each. What there
#: was before the first input is not looked at again, for that would take longer than most parsers do.
_COLLECTED = 16


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a run found: inputs, processor time of all and of the slowest (seconds), and the undeclared errors."""

    inputs: int
    seconds: float
    slowest: float
    errors: dict[str, bytes]

    def __str__(self) -> str:
        return f"{self.inputs} inputs, {self.seconds:.0f} s, slowest {self.slowest:.2f} s, {len(self.errors)} findings"


def fuzz(name: str, target: Target, count: int, seed: int = 1, *, progress: bool = False) -> Findings:
    """Puts so many inputs to a parser; the same for the same seed."""
    mutator, errors = Mutator(target.inputs(), seed), dict[str, bytes]()
    spent = slowest = 0.0
    shown = time.monotonic()
    gc.collect()
    gc.freeze()
    for number in range(1, count + 1):
        if number % _COLLECTED == 0:
            gc.collect()
        data, began = mutator.next(), time.process_time()
        if error := undeclared(target, data):
            errors.setdefault(error, data)
        took = time.process_time() - began
        spent, slowest = spent + took, max(slowest, took)
        if progress and time.monotonic() - shown > _EVERY:
            shown = time.monotonic()
            print(f"{name}: {Findings(inputs=number, seconds=spent, slowest=slowest, errors=errors)}", flush=True)
    return Findings(inputs=count, seconds=spent, slowest=slowest, errors=errors)


def undeclared(target: Target, data: bytes) -> str:
    """Returns the error that a parser raised on that input and does not declare, with its place; empty if none."""
    try:
        target.read(data)
    except target.errors:
        return ""
    except Exception as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        place = f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}" if last else ""
        return f"{place} {type(error).__name__}: {error}"[:200]
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], metavar="NAME")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--image", action="store_true", help="the parsers of an image alone")
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    failed = False
    for name in options.names or [name for name, target in TARGETS.items() if target.of_image or not options.image]:
        found = fuzz(name, TARGETS[name], options.inputs, options.seed, progress=True)
        print(f"{name}: {found}", flush=True)
        for error, data in found.errors.items():
            path = Path(tempfile.gettempdir(), f"fuzz-{name}-{hashlib.sha256(data).hexdigest()[:12]}")
            path.write_bytes(data)
            print(f"  {path}: {error}", flush=True)
        failed = failed or bool(found.errors)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
