"""The time limit of pytest-timeout by its method `thread`, which ends the process with status 1 within a test.

Source: pytest-timeout, hooks `pytest_timeout_set_timer` and `pytest_timeout_cancel_timer`, whose default calls
`item.cancel_timeout`.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest


class ThreadTimeLimit:
    """Ends the run with a verdict instead: `expire` is called with a reason, in a thread, and ends the process."""

    def __init__(self, expire: Callable[[str], None]) -> None:
        self._expire = expire

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, item: Any, settings: Any) -> bool | None:
        """Starts the timer of a test."""
        if settings.method != "thread":
            return None
        timer = threading.Timer(settings.timeout, self._expired, (item, settings))
        timer.name = "time-limit"

        def cancel() -> None:
            timer.cancel()
            timer.join()

        item.cancel_timeout = cancel
        timer.start()
        return True

    def _expired(self, item: pytest.Item, settings: Any) -> None:
        from pytest_timeout import is_debugging

        if not settings.disable_debugger_detection and is_debugging():
            return
        capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
        if capture is not None:
            capture.suspend_global_capture(in_=True)
        faulthandler.dump_traceback(file=sys.__stderr__ or 2)
        self._expire(f"{item.nodeid} did not end within {settings.timeout:g} s (pytest-timeout, method thread)")
