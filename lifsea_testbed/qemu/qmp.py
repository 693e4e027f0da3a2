"""QEMU's monitor: the library qemu.qmp on one background event loop, behind synchronous calls with deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from qemu.qmp import ConnectError, EventListener, ExecInterruptedError, ExecuteError, QMPClient, QMPError, StateError

from lifsea_testbed.errors import LaunchError, TestbedError
from lifsea_testbed.support.deadline import Deadline

T = TypeVar("T")
#: The most of one message that is logged (characters).
_LONGEST_LINE = 2000
#: How much longer than its deadline a call may take on the event loop (seconds), which others keep busy.
_SLACK = 10.0


class EventName(enum.StrEnum):
    """The events that the test bed handles (QEMU's qapi/run-state.json, block-core.json, char.json)."""

    SHUTDOWN = "SHUTDOWN"
    RESET = "RESET"
    GUEST_PANICKED = "GUEST_PANICKED"
    BLOCK_IO_ERROR = "BLOCK_IO_ERROR"
    WATCHDOG = "WATCHDOG"
    VSERPORT_CHANGE = "VSERPORT_CHANGE"


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of QEMU: its name, one of EventName or another, its data, and when, in seconds since the epoch."""

    name: str
    data: Mapping[str, Any]
    at: float


class Monitor:
    """A connection to QEMU's monitor over a socket that is already connected; `log` receives every message.

    `on_failure` is called once if an event cannot be handled: no later one is delivered.
    """

    def __init__(self, connection: socket.socket, *, on_event: Callable[[Event], None],
                 log: Callable[[str], None] = lambda line: None,
                 on_failure: Callable[[Exception], None] = lambda error: None) -> None:
        self._log = log
        self._on_failure = on_failure
        self._client = QMPClient("lifsea-testbed")
        self._connection = connection
        self._on_event = on_event
        self._has_failed = False
        # The client's own listener, which cannot be removed, keeps every event that it accepts.
        self._client.events.names = {"none"}
        self._client.register_listener(_Events(self._pass_on))

    def connect(self, deadline: Deadline) -> None:
        """Negotiates capabilities and starts to deliver events.

        Raises:
            LaunchError: QEMU closed the connection or sent no greeting in time.
        """
        try:
            _run(self._connect(), deadline)
        except (ConnectError, TimeoutError) as error:
            raise LaunchError(f"QEMU's monitor sent no greeting within {deadline.allowance:.0f} s: {error!r}",
                              hint="QEMU exited or the host is overloaded") from error

    def execute(self, name: str, arguments: Mapping[str, object] | None = None, *, deadline: Deadline) -> Any:
        """Executes one command and returns its result.

        Raises:
            TestbedError: QEMU refused the command, did not answer in time, or is gone.
        """
        self._log(_line(">", {"execute": name, **({"arguments": dict(arguments)} if arguments else {})}))
        try:
            result = _run(self._client.execute(name, dict(arguments or {})), deadline)
            self._log(_line("<", {"return": result}))
            return result
        except ExecuteError as error:
            self._log(_line("<", {"error": str(error)}))
            raise TestbedError(f"QEMU refused {name}: {error}") from error
        except (ExecInterruptedError, StateError, QMPError) as error:
            raise LaunchError(f"QEMU closed its monitor while it executed {name}: it exited or was killed") from error
        except TimeoutError:
            raise TestbedError(f"QEMU did not answer {name} within {deadline.allowance:.0f} s") from None

    def add_descriptor(self, descriptor: int, *, deadline: Deadline) -> str:
        """Passes an open file to QEMU (add-fd) and returns the name by which QEMU can open it."""
        _run(self._send_descriptor(descriptor), deadline)
        return f"/dev/fdset/{self.execute('add-fd', deadline=deadline)['fdset-id']}"

    def add_socket(self, descriptor: int, name: str, *, deadline: Deadline) -> None:
        """Passes an open socket to QEMU (getfd) under a name for the next command; the name must not be a number."""
        _run(self._send_descriptor(descriptor), deadline)
        self.execute("getfd", {"fdname": name}, deadline=deadline)

    def close(self) -> None:
        """Ends the connection; a second time does nothing."""
        with contextlib.suppress(QMPError, TimeoutError, OSError, EOFError):
            _run(self._client.disconnect(), Deadline.after(2))
        self._connection.close()

    async def _connect(self) -> None:
        await self._client.connect(self._connection)

    async def _send_descriptor(self, descriptor: int) -> None:
        self._client.send_fd_scm(descriptor)

    def _pass_on(self, message: Mapping[str, Any]) -> None:
        if self._has_failed:
            return
        try:
            self._log(_line("<", dict(message)))
            stamp = message.get("timestamp", {})
            at = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
            self._on_event(Event(name=str(message.get("event")), data=message.get("data", {}), at=at))
        except Exception as error:
            self._has_failed = True
            self._on_failure(error)


class _Events(EventListener):
    """Passes each event on, and keeps none: a guest causes as many as it likes."""

    def __init__(self, pass_on: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._pass_on = pass_on

    def accept(self, event: Mapping[str, Any]) -> bool:
        """Passes an event on, as it arrives; returns that it is not to be queued."""
        self._pass_on(event)
        return False


def _line(direction: str, message: Mapping[str, Any]) -> str:
    text = json.dumps(message, default=str)
    return f"{direction} {text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + '…'}"


_STARTING = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The one event loop of this process; threads that power on machines at the same time share it."""
    with _STARTING:
        return _started_loop()


@functools.cache
def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="qmp", daemon=True).start()
    return loop


def _run(coroutine: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(coroutine, deadline.remaining)

    return asyncio.run_coroutine_threadsafe(bounded(), _loop()).result(deadline.remaining + _SLACK)
