"""The liveness of one power-on: when the machine dies, every wait on it ends at once and learns why."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from lifsea_testbed.errors import Explained
from lifsea_testbed.support.deadline import Deadline


class Liveness:
    """Holds the first reason for which a power-on ended, and wakes everyone who waits.

    A wait selects on `fileno()` beside its own descriptor: it turns readable, and stays so, when the end is known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: Callable[[], Explained] | None = None
        self._watchers: list[Callable[[], None]] = []
        self._expected = False
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """The descriptor that turns readable at the end."""
        return self._event

    @property
    def ended(self) -> bool:
        """Whether the end is known."""
        return self._reason is not None

    @property
    def end_is_expected(self) -> bool:
        """Whether somebody announced that the machine is about to go down."""
        return self._expected

    def expect_end(self) -> None:
        """Announces that the machine is about to be stopped on purpose."""
        self._expected = True

    def end(self, reason: Callable[[], Explained]) -> None:
        """Records why the machine is gone; only the first reason counts. `reason` is called when it is needed."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            watchers = list(self._watchers)
            if self._event >= 0:
                os.eventfd_write(self._event, 1)
        for wake in watchers:
            wake()

    def on_end(self, wake: Callable[[], None]) -> None:
        """Has `wake` called once at the end, or now if the end has come."""
        with self._lock:
            if self._reason is None:
                self._watchers.append(wake)
                return
        wake()

    def reason(self) -> Explained:
        """Returns why the machine is gone; it must be."""
        assert self._reason is not None
        return self._reason()

    def check(self) -> None:
        """Raises the reason if the machine is gone."""
        if self._reason is not None:
            raise self._reason()

    def pause(self, seconds: float, deadline: Deadline) -> None:
        """Waits that long, or until the deadline; raises the reason as soon as the machine is gone."""
        self.check()
        select.select([self._event], [], [], min(seconds, deadline.remaining))
        self.check()

    def wait(self, deadline: Deadline) -> bool:
        """Waits for the end and returns whether it came before the deadline."""
        return self.ended or bool(select.select([self._event], [], [], deadline.remaining)[0])

    def close(self) -> None:
        """Gives the descriptor back, once the end is known; a second time does nothing."""
        with self._lock:
            event, self._event = self._event, -1
        if event >= 0:
            os.close(event)
