"""An ostree repository as a web server serves it: the files of one directory, intact or with a deliberate fault.

The layout is that of an archive repository (ostree's documentation, "repository structure and formats").
"""

from __future__ import annotations

import enum
import urllib.parse
from collections import deque
from pathlib import Path

from lifsea_testbed.ecs.metadata import Request, Response

#: Content objects in an archive repository: a header and the deflated content.
_CONTENT = ".filez"
#: The requests that are kept, and how much of each path (characters): a guest cannot fill the host's memory.
_MOST_REQUESTS, _LONGEST_PATH = 100_000, 1000


class RepositoryFault(enum.StrEnum):
    """A fault of a repository: content that breaks off, or that does not match its checksum."""

    NONE = "none"
    CUT_OFF = "cut off in the middle"
    CORRUPTED = "corrupted"


class Repository:
    """Serves the files of a directory and nothing else; `requests` are the last requested paths, in order.

    `fault` can be changed at any time.
    """

    def __init__(self, directory: Path) -> None:
        self.fault = RepositoryFault.NONE
        self.requests: deque[str] = deque(maxlen=_MOST_REQUESTS)
        self._directory = directory.resolve()

    def answer(self, request: Request) -> Response:
        """Returns the response to a request."""
        path = urllib.parse.unquote(request.path.partition("?")[0]).lstrip("/")
        self.requests.append(path[:_LONGEST_PATH])
        if request.method not in ("GET", "HEAD"):
            return Response(status=405)
        file = (self._directory / path).resolve()
        if not file.is_relative_to(self._directory) or not file.is_file():
            return Response(status=404)
        return self._faulty(file.read_bytes(), path)

    def _faulty(self, content: bytes, path: str) -> Response:
        if self.fault is RepositoryFault.NONE or not path.endswith(_CONTENT):
            return Response(status=200, body=content)
        if self.fault is RepositoryFault.CUT_OFF:
            return Response(status=200, body=content[:len(content) // 2], promised=len(content))
        return Response(status=200, body=content[:-1] + bytes([content[-1] ^ 0xFF]))
