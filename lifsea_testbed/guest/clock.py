"""The time servers that the guest asks."""

from __future__ import annotations

import time

from lifsea_testbed.support.protocols import Shell


def time_sources(shell: Shell) -> list[str]:
    """Returns the names or addresses of the sources that chronyd has, reachable or not; none without chronyd."""
    # -a, since chrony 4.1, lists sources whose name could not be resolved as well.
    answer = shell.run("chronyc -c -N sources -a || chronyc -c -N sources", check=False)
    rows = [line.split(",") for line in answer.lines] if answer.ok else []
    return [row[2] for row in rows if len(row) > 2]


def ahead(shell: Shell) -> float:
    """Returns how many seconds the guest's clock is ahead of the host's; negative if it is behind."""
    before = time.time()
    said = float(shell.run("date +%s").stdout)
    return said - (before + time.time()) / 2
