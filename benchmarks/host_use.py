"""What keeping timed tests apart costs a test that is alone: `python -m benchmarks.host_use`, some seconds.

Each turn takes and leaves shared use of the host, as each test does, and asks for the host to itself, as a timed
fixture does; beside it, the same under emulation, where nothing is kept apart.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lifsea_testbed.support.host_use import HostUse

_TURNS = 2000
#: The share of a second that one test may lose.
PROMISED = 0.001


def share(host: HostUse) -> None:
    """One test."""
    host.share()
    host.leave()


def exclude(host: HostUse) -> None:
    """One timed fixture."""
    host.share()
    with host.exclusive("nothing"):
        pass
    host.leave()


def taken(turn: Callable[[HostUse], None], host: HostUse) -> float:
    """The median of a turn (seconds)."""
    times = []
    for _ in range(_TURNS):
        started = time.perf_counter()
        turn(host)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Prints each, and whether it keeps the limit."""
    with tempfile.TemporaryDirectory() as folder:
        for name, turn in (("a test", share), ("a timed fixture", exclude)):
            apart, alike = (taken(turn, HostUse(applies=applies, directory=Path(folder))) for applies in (True, False))
            kept = "kept" if apart <= PROMISED else "not kept"
            print(f"{name}: {apart * 1e6:.1f} µs under KVM, {alike * 1e6:.1f} µs under emulation; "
                  f"promised {PROMISED * 1e6:.0f} µs: {kept}")  # fmt: skip


if __name__ == "__main__":
    main()
