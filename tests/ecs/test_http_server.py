"""A guest cannot make a service of its machine grow: connections and requests have bounds."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.ecs import http_server, instance_types
from lifsea_testbed.ecs.http_server import HttpService, MetadataService
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import Metadata, Request, Response
from lifsea_testbed.support.deadline import Deadline

SOON = 30.0


class Holding:
    """Answers each request when it is told to."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Semaphore(0), threading.Event()

    def answer(self, request: Request) -> Response:
        self.asked.release()
        self.go.wait(SOON)
        return Response(status=200, body=b"answered")


@contextlib.contextmanager
def connection(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(SOON)
        made.connect(str(path))
        yield made


def answer(path: Path, request: bytes = b"GET / HTTP/1.1\r\n\r\n") -> bytes:
    """What a connection receives until it is closed."""
    with connection(path) as made, contextlib.suppress(ConnectionError):
        made.sendall(request)
        return received(made)
    return b""


def received(connection: socket.socket) -> bytes:
    """What a connection receives until it is closed."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_connections_are_bounded_and_the_others_are_closed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MOST_CONNECTIONS", 3)
    holding = Holding()
    with HttpService(holding, tmp_path / "s") as service, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connection(tmp_path / "s")) for _ in range(3)]
        for each in held:
            each.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert all(holding.asked.acquire(timeout=SOON) for _ in range(3))
        before = threading.active_count()
        assert [answer(tmp_path / "s") for _ in range(20)] == [b""] * 20
        assert threading.active_count() <= before and service.refused == 20
        holding.go.set()
        assert all(received(each).endswith(b"answered") for each in held)
        deadline = Deadline.after(SOON)
        while b"answered" not in answer(tmp_path / "s"):
            assert not deadline.expired


@pytest.mark.parametrize("request_", [
    b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: %s\r\n" % (number, b"y" * 60_000) for number in range(4)) + b"\r\n",
    b"GET /" + b"x" * 65_000 + b" HTTP/1.1\r\nx: " + b"y" * 1000 + b"\r\n\r\n",
])  # fmt: skip
def test_a_request_is_bounded(tmp_path: Path, request_: bytes) -> None:
    metadata = Metadata(Instance(type=instance_types.find("ecs.g7.large")), user_data=b"")
    with MetadataService(metadata, tmp_path / "s"):
        assert answer(tmp_path / "s", request_) == b"" and metadata.requests == []
        assert b" 200 " in answer(tmp_path / "s", b"GET /latest/meta-data/ HTTP/1.1\r\n\r\n")


def test_a_path_is_bounded_and_stays_on_record(tmp_path: Path) -> None:
    metadata = Metadata(Instance(type=instance_types.find("ecs.g7.large")), user_data=b"")
    with MetadataService(metadata, tmp_path / "s"):
        for length, status in ((2000, b" 404 "), (2048, b" 404 "), (2049, b" 414 "), (60_000, b" 414 ")):
            request = b"GET /" + b"x" * (length - 1) + b" HTTP/1.1\r\n\r\n"
            assert status in answer(tmp_path / "s", request).partition(b"\r\n")[0]
    assert [request.status for request in metadata.requests] == [404, 404, 414, 414]
    assert max(len(request.path) for request in metadata.requests) == 1000
