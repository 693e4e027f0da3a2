"""The cost of the plugin to a run of pytest that does not use it, and the time of a listing of the suites.

`python -m benchmarks.startup`, half a minute. It counts processor time, which depends little on other load of the host;
runs with and without the plugin alternate. Hypothesis, which only our own tests need, is disabled in both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
_PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
_TURNS = 15
#: The promised limits (seconds).
LISTING, UNUSED = 1.0, 0.05


def taken(arguments: list[str], directory: Path) -> tuple[float, float]:
    """The processor time and the time on the clock of one run of pytest (seconds)."""
    before, started = os.times(), time.monotonic()
    subprocess.run([*_PYTEST, *arguments], cwd=directory, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return used, time.monotonic() - started


def unused() -> float:
    """Prints and returns the median of the time that the plugin adds to a run of one empty test."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_nothing.py").write_text("def test_nothing(): pass\n")
        pairs = [(taken([], Path(folder))[0], taken(["-p", "no:lifsea_testbed"], Path(folder))[0])
                 for _ in range(_TURNS)]  # fmt: skip
    added = statistics.median(with_it - without for with_it, without in pairs)
    print(f"loaded and unused: {added * 1000:+.0f} ms on {statistics.median(pair[1] for pair in pairs) * 1000:.0f} ms")
    return added


def listing() -> float:
    """Prints and returns the median of a listing of the suites."""
    runs = [taken(["--collect-only", "suites"], ROOT) for _ in range(_TURNS)]
    used = statistics.median(run[0] for run in runs)
    print(f"listing the suites: {used:.2f} s of processor, {min(run[1] for run in runs):.2f} s at best on a clock")
    return used


def main() -> None:
    """Prints both, and whether they keep the limits."""
    for what, used, promised in (("unused", unused(), UNUSED), ("listing", listing(), LISTING)):
        print(f"startup: {what} {used:.3f} s, promised {promised} s: {'kept' if used <= promised else 'not kept'}")


if __name__ == "__main__":
    main()
