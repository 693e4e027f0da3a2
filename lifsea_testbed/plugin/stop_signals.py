"""The signals by which a user or the system ends a run: the first one interrupts it, a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Interrupts the main thread at the first signal as Ctrl-C does, with the signal's name in KeyboardInterrupt.

    A signal that this process ignores, as under nohup(1), stays ignored. In a worker of xdist (`is_worker`), SIGTERM
    and SIGHUP do nothing: one that was sent to the process group reaches the controller as well, which ends workers.
    """

    def __init__(self, *, is_worker: bool) -> None:
        self._handles = self._pass if is_worker else self._interrupt
        self._signals = _SIGNALS[1:] if is_worker else _SIGNALS
        self._before: dict[signal.Signals, Any] = {}
        #: The name of the signal that came.
        self.received = ""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in self._signals:
                if signal.getsignal(each) is not signal.SIG_IGN:
                    self._before[each] = signal.signal(each, self._handles)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Puts back the handlers that were there before."""
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        self.received = signal.Signals(number).name
        raise KeyboardInterrupt(self.received)

    def _pass(self, number: int, frame: FrameType | None) -> None:
        """Does nothing; unlike SIG_IGN, programs that are started do not inherit that."""
