"""A metadata service in trouble: it comes late, fails at first, answers slowly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lifsea_testbed.ecs.metadata import LONGEST_PATH, Metadata, Request, Response

#: The status on record of a request whose connection was closed without an answer.
NO_ANSWER = 0
#: The paths that fail at first, each of at most LONGEST_PATH characters: a guest cannot fill the host's memory.
_MOST_PATHS = 1000


@dataclass(frozen=True, kw_only=True)
class MetadataFaults:
    """The faults of a metadata service at a first boot.

    For `silent` seconds from the guest's first request on, connections are closed without an answer. After that each
    path, of the first thousand, answers 503 to its first `errors` requests, and each answer takes `delay` seconds. With
    `token_required` a request without a token is 403 (HttpTokens of an instance).
    """

    silent: float = 0.0
    errors: int = 0
    delay: float = 0.0
    token_required: bool = False


NO_FAULTS = MetadataFaults()


class FaultyMetadata:
    """Answers as a metadata service with those faults, and records the requests that it answers wrongly as well.

    `clock` returns seconds, `pause` waits for so many.
    """

    def __init__(self, metadata: Metadata, faults: MetadataFaults, *, clock: Callable[[], float] = time.monotonic,
                 pause: Callable[[float], object] = lambda seconds: threading.Event().wait(seconds)) -> None:
        self._metadata, self._faults, self._clock, self._pause = metadata, faults, clock, pause
        self._lock = threading.Lock()
        self._first: float | None = None
        self._failed: dict[str, int] = {}

    def answer(self, request: Request) -> Response:
        """Returns the response to a request.

        Raises:
            ConnectionAbortedError: the service does not answer yet; the connection is to be closed.
        """
        if self._is_silent():
            self._metadata.record(request, NO_ANSWER)
            raise ConnectionAbortedError
        self._pause(self._faults.delay)
        if len(request.path) <= LONGEST_PATH and self._fails(request.path):
            self._metadata.record(request, 503)
            return Response(status=503)
        return self._metadata.answer(request)

    def _is_silent(self) -> bool:
        with self._lock:
            self._first = self._clock() if self._first is None else self._first
            return self._clock() - self._first < self._faults.silent

    def _fails(self, path: str) -> bool:
        with self._lock:
            known = path in self._failed or len(self._failed) < _MOST_PATHS
            number = self._failed.get(path, 0) + 1 if known else self._faults.errors + 1
            self._failed |= {path: number} if known else {}
        return number <= self._faults.errors
