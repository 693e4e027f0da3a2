"""A watch over the nodes of a cluster: when each was first Ready, and how many are."""

from __future__ import annotations

import threading
import time
from typing import Self

from lifsea_testbed.cluster.api import Api
from lifsea_testbed.errors import HostError

#: How often one looks (seconds): so exact are its times.
_EVERY = 0.25


class NodeWatch:
    """Looks at all nodes again and again for as long as the context lasts.

    `ready_at` is when each node was first seen Ready (host's monotonic clock, seconds).
    """

    def __init__(self, api: Api) -> None:
        self.ready_at: dict[str, float] = {}
        self.fewest: int | None = None
        self._api = api
        self._counts = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="node-watch", daemon=True)

    def __enter__(self) -> Self:
        """Starts to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Looks no more."""
        self._ended.set()
        self._thread.join()

    def saw(self, name: str) -> bool:
        """Tells whether that node was seen Ready."""
        return name in self.ready_at

    def count(self) -> None:
        """From now on `fewest` is the smallest number of nodes that were Ready at one time."""
        self._counts = True

    def _look(self) -> None:
        while not self._ended.wait(_EVERY):
            try:
                ready = [node.name for node in self._api.nodes() if node.is_ready]
            except HostError:
                continue  # it is asked again; whoever needs an answer asks for himself
            for name in ready:
                self.ready_at.setdefault(name, time.monotonic())
            if self._counts:
                self.fewest = min(len(ready), len(ready) if self.fewest is None else self.fewest)
