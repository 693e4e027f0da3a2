"""The metadata service of an instance: the response to each request, and the record of the requests.

Source: ECS documentation, "view instance metadata".
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from lifsea_testbed.ecs import metadata_tree
from lifsea_testbed.ecs.instance import Instance

TOKEN_HEADER = "x-aliyun-ecs-metadata-token"
TTL_HEADER = "x-aliyun-ecs-metadata-token-ttl-seconds"
_LONGEST_TTL = 21600
#: The tokens that are kept, and the requests that are answered and recorded: a guest cannot fill the host's memory.
_MOST_TOKENS, _MOST_REQUESTS = 256, 20_000
#: The longest path that is answered, and how much of one is recorded (characters).
LONGEST_PATH, _RECORDED = 2048, 1000
_VERSIONS = ("latest", "2016-01-01")
_META_DATA = "meta-data/"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Response:
    """One HTTP response; with `promised` above the size of the body, the connection breaks off early."""

    status: int
    body: bytes = b""
    promised: int | None = None


@dataclass(frozen=True, kw_only=True)
class MetadataRequest:
    """A request of the guest: when (host's monotonic clock, seconds), the status, whether it had a token."""

    at: float
    method: str
    path: str
    status: int
    with_token: bool = False


class Metadata:
    """Answers the requests of one instance and records them.

    Behaves like the real service: PUT returns tokens with a time to live of 1 to 21600 s; with `token_required` a GET
    without a token is 403, and a GET with a forged or expired token always is; an unknown path is 404; a path that ends
    in a slash lists the names below it. `clock` returns seconds. It may be called from several threads.

    At most 256 tokens are kept, the oldest is forgotten first; after 20 000 requests each further one is 429 and is not
    recorded. A path of more than 2048 characters is 414.
    """

    def __init__(self, instance: Instance, *, user_data: bytes, token_required: bool = False,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.requests: list[MetadataRequest] = []
        self._token_required = token_required
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[str, float] = {}
        self._tree = metadata_tree.meta_data(instance)
        # Without user-data the service answers 404; vendor-data exists on no customer's instance.
        self._texts = {"meta-data/all": metadata_tree.whole(self._tree).encode(),
                       "dynamic/instance-identity/document": metadata_tree.document(instance).encode(),
                       **({"user-data": user_data} if user_data else {})}  # fmt: skip

    @property
    def tokens(self) -> dict[str, float]:
        """The tokens that were issued, and the seconds until each expires (negative after that)."""
        now = self._clock()
        with self._lock:
            return {token: end - now for token, end in self._tokens.items()}

    @property
    def is_cut(self) -> bool:
        """Whether requests are missing on record, because there were more than are recorded."""
        return len(self.requests) >= _MOST_REQUESTS

    def append_user_data(self, user_data: bytes) -> None:
        """Appends a script to the user-data."""
        self._texts["user-data"] = self._texts.get("user-data", b"#!/bin/sh\n") + user_data

    def restore(self, tokens: Mapping[str, float], requests: Iterable[MetadataRequest]) -> None:
        """Continues for a restored machine: with the tokens that the guest holds, and the record of its requests."""
        now = self._clock()
        with self._lock:
            self._tokens |= {token: now + left for token, left in tokens.items()}
            self.requests[:0] = requests

    def answer(self, request: Request) -> Response:
        """Returns the response to a request and records the request with its status."""
        if len(self.requests) >= _MOST_REQUESTS:
            return Response(status=429)
        if len(request.path) > LONGEST_PATH:
            response = Response(status=414)
        else:
            response = self._put_token(request) if request.method == "PUT" else self._get(request)
        self.record(request, response.status)
        return response

    def record(self, request: Request, status: int) -> None:
        """Records a request with the status of its answer, up to the bound."""
        recorded = MetadataRequest(at=self._clock(), method=request.method, path=request.path[:_RECORDED],
                                   status=status, with_token=TOKEN_HEADER in request.headers)  # fmt: skip
        with self._lock:
            if len(self.requests) < _MOST_REQUESTS:
                self.requests.append(recorded)

    def _put_token(self, request: Request) -> Response:
        if request.path.strip("/") != "latest/api/token":
            return Response(status=404)
        ttl = time_to_live(request.headers.get(TTL_HEADER, ""))
        if ttl is None:
            return Response(status=400)
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[token] = self._clock() + ttl
            while len(self._tokens) > _MOST_TOKENS:
                del self._tokens[next(iter(self._tokens))]
        return Response(status=200, body=token.encode())

    def _get(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(status=405)
        if not self._admits(request.headers.get(TOKEN_HEADER)):
            return Response(status=403)
        version, _, path = request.path.lstrip("/").partition("?")[0].partition("/")
        body = self._body(path) if version in _VERSIONS else None
        return Response(status=404) if body is None else Response(status=200, body=body)

    def _admits(self, token: str | None) -> bool:
        if token is None:
            return not self._token_required
        with self._lock:
            return self._clock() < self._tokens.get(token, 0.0)

    def _body(self, path: str) -> bytes | None:
        if path in self._texts:
            return self._texts[path]
        if not f"{path}/".startswith(_META_DATA):
            return None
        place = path.removeprefix("meta-data").lstrip("/")
        text = self._tree.get(place, metadata_tree.listing(self._tree, place))
        return None if text is None else text.encode()


def time_to_live(text: str) -> int | None:
    """Returns the seconds that a token is requested for: 1 to 21600, in ASCII digits; None for anything else."""
    digits = text.lstrip("0")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(_LONGEST_TTL))):
        return None
    return int(digits) if int(digits) <= _LONGEST_TTL else None
