"""The liveness of one power-on: the first reason why the machine ended, which ends every wait at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from lifsea_testbed.errors import Explained
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.polling import wait_for_ready


class Liveness:
    """Holds the first reason why a power-on ended, and wakes every waiter.

    A wait polls `fileno()` beside its own descriptor: it becomes readable, and stays so, when the end is known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: Callable[[], Explained] | None = None
        self._watchers: list[Callable[[], None]] = []
        self._expected = False
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """The descriptor that becomes readable at the end."""
        return self._event

    @property
    def ended(self) -> bool:
        """Whether the end is known."""
        return self._reason is not None

    @property
    def end_is_expected(self) -> bool:
        """Whether `expect_end` announced that the machine is about to go down."""
        return self._expected

    def expect_end(self) -> None:
        """Announces that the machine is about to be stopped on purpose."""
        self._expected = True

    def end(self, reason: Callable[[], Explained]) -> None:
        """Records why the machine ended; only the first reason counts. `reason` is called when an error is raised."""
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
        """Calls `wake` once at the end, or immediately if the machine has ended."""
        with self._lock:
            if self._reason is None:
                self._watchers.append(wake)
                return
        wake()

    def reason(self) -> Explained:
        """Returns why the machine ended; call it only after the end."""
        assert self._reason is not None
        return self._reason()

    def check(self) -> None:
        """Raises the reason if the machine has ended."""
        if self._reason is not None:
            raise self._reason()

    def pause(self, seconds: float, deadline: Deadline) -> None:
        """Waits that long, or until the deadline; raises the reason as soon as the machine ends."""
        self.check()
        wait_for_ready(deadline.at_most(seconds), self)
        self.check()

    def wait(self, deadline: Deadline) -> bool:
        """Waits for the end and returns whether it came before the deadline."""
        return self.ended or wait_for_ready(deadline, self)

    def close(self) -> None:
        """Closes the descriptor, after the end; a second call does nothing."""
        with self._lock:
            event, self._event = self._event, -1
        if event >= 0:
            os.close(event)
