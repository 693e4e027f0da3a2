"""The metadata service has the faults that were ordered, and is itself again after them."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from lifsea_testbed.ecs import instance_types, metadata_faults
from lifsea_testbed.ecs.http_server import MetadataService
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import Metadata, Request
from lifsea_testbed.ecs.metadata_faults import NO_ANSWER, FaultyMetadata, MetadataFaults

INSTANCE = Instance(type=instance_types.find("ecs.g7.large"))
NAME, DATA = "/latest/meta-data/hostname", "/latest/user-data"


class Service:
    """A faulty service with a clock of its own, which each answer's delay moves on."""

    def __init__(self, faults: MetadataFaults) -> None:
        self.now, self.paused = 100.0, list[float]()
        self.metadata = Metadata(INSTANCE, user_data=b"#!/bin/sh\n")
        self.faulty = FaultyMetadata(self.metadata, faults, clock=lambda: self.now, pause=self.paused.append)

    def get(self, path: str) -> int:
        return self.faulty.answer(Request(method="GET", path=path)).status


def test_a_late_service_closes_connections_from_the_first_request_on() -> None:
    service = Service(MetadataFaults(silent=5.0))
    for at in (1000.0, 1004.9):
        service.now = at
        with pytest.raises(ConnectionAbortedError):
            service.get(NAME)
    service.now = 1005.0
    assert service.get(NAME) == 200
    assert [seen.status for seen in service.metadata.requests] == [NO_ANSWER, NO_ANSWER, 200]


def test_each_path_fails_at_first() -> None:
    service = Service(MetadataFaults(errors=2))
    assert [service.get(path) for path in (NAME, NAME, DATA, NAME, DATA, DATA)] == [503, 503, 503, 200, 503, 200]
    assert [seen.status for seen in service.metadata.requests] == [503, 503, 503, 200, 503, 200]


def test_a_slow_service_takes_its_time_for_each_answer() -> None:
    service = Service(MetadataFaults(delay=1.5))
    assert [service.get(NAME), service.get("/latest/nothing")] == [200, 404]
    assert service.paused == [1.5, 1.5]


def test_a_late_service_sends_not_one_byte(tmp_path: Path) -> None:
    metadata = Metadata(INSTANCE, user_data=b"")
    with (MetadataService(metadata, tmp_path / "metadata", MetadataFaults(silent=60.0)),
          contextlib.closing(socket.socket(socket.AF_UNIX)) as connection):  # fmt: skip
        connection.settimeout(10.0)
        connection.connect(str(tmp_path / "metadata"))
        connection.sendall(f"GET {NAME} HTTP/1.1\r\nHost: guest\r\n\r\n".encode())
        assert connection.recv(1) == b""
    assert [seen.status for seen in metadata.requests] == [NO_ANSWER]


def test_the_paths_that_fail_at_first_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_faults, "_MOST_PATHS", 10)
    metadata = Metadata(Instance(type=instance_types.find("ecs.g7.large")), user_data=b"")
    faulty = FaultyMetadata(metadata, MetadataFaults(errors=1), pause=lambda seconds: None)
    found = [faulty.answer(Request(method="GET", path=f"/{number}")).status for number in range(100)]
    assert found == [503] * 10 + [404] * 90 and len(faulty._failed) == 10
    assert faulty.answer(Request(method="GET", path="/" + "x" * 5000)).status == 414
