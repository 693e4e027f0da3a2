"""The metadata service answers as the cloud's does."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.ecs import catalogue
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import TOKEN_HEADER, TTL_HEADER, Metadata, Request
from lifsea_testbed.ecs.service import MetadataService

INSTANCE = Instance(type=catalogue.find("ecs.g7.large"))
USER_DATA = b"#!/bin/sh\nprintf '\\377'\n\xff"


def get(metadata: Metadata, path: str, **headers: str) -> tuple[int, bytes]:
    response = metadata.answer(Request(method="GET", path=path, headers=headers))
    return response.status, response.body


def fetch(path: Path, method: str, url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """One request at the socket, as the guest makes it."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.connect(os.path.relpath(path))
        fields = [f"{name}: {value}" for name, value in (headers or {}).items()]
        connection.sendall("\r\n".join([f"{method} {url} HTTP/1.1", "Host: guest", *fields, "", ""]).encode())
        with http.client.HTTPResponse(connection, method=method) as response:
            response.begin()
            return response.status, response.read()


@pytest.fixture
def metadata() -> Metadata:
    return Metadata(INSTANCE, user_data=USER_DATA)


@pytest.fixture
def socket_path(metadata: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A socket in a directory whose name is longer than a socket's address may be."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    monkeypatch.chdir(directory)
    with MetadataService(metadata, directory / "metadata"):
        yield directory / "metadata"
    assert not (directory / "metadata").exists()


@pytest.mark.parametrize("version", ["latest", "2016-01-01"])
def test_an_instance_learns_who_it_is(metadata: Metadata, version: str) -> None:
    assert get(metadata, f"/{version}/meta-data/instance-id") == (200, INSTANCE.id.encode())
    assert get(metadata, f"/{version}/meta-data/hostname") == (200, INSTANCE.host_name.encode())
    assert get(metadata, f"/{version}/user-data") == (200, USER_DATA)


def test_a_directory_lists_what_is_below(metadata: Metadata) -> None:
    status, body = get(metadata, "/latest/meta-data/")
    names = body.decode().split("\n")
    assert status == 200 and {"instance-id", "network/", "ntp-conf/"} <= set(names)
    assert get(metadata, "/latest/meta-data/ntp-conf/") == (200, b"ntp-servers")


@pytest.mark.parametrize("path", [
    "/", "/latest/meta-data/flavour", "/1999-01-01/meta-data/", "/latest", "/../etc/passwd",
])  # fmt: skip
def test_what_is_not_there_is_not_found(metadata: Metadata, path: str) -> None:
    assert get(metadata, path)[0] == 404


def test_everything_comes_as_json_for_cloud_init(metadata: Metadata) -> None:
    whole = json.loads(get(metadata, "/latest/meta-data/all")[1])
    assert whole["instance"]["instance-type"] == "ecs.g7.large"


@pytest.mark.parametrize(("ttl", "status"), [("1", 200), ("21600", 200), ("0", 400), ("21601", 400), ("x", 400),
                                             ("", 400), ("²", 400), ("-1", 400)])  # fmt: skip
def test_a_token_lives_from_one_second_to_six_hours(metadata: Metadata, ttl: str, status: int) -> None:
    asked = Request(method="PUT", path="/latest/api/token", headers={TTL_HEADER: ttl})
    assert metadata.answer(asked).status == status


def test_without_its_token_a_hardened_instance_learns_nothing() -> None:
    metadata = Metadata(INSTANCE, user_data=USER_DATA, token_required=True)
    assert get(metadata, "/latest/meta-data/instance-id")[0] == 403
    token = metadata.answer(Request(method="PUT", path="/latest/api/token", headers={TTL_HEADER: "60"})).body.decode()
    assert get(metadata, "/latest/meta-data/instance-id", **{TOKEN_HEADER: token})[0] == 200
    assert get(metadata, "/latest/meta-data/instance-id", **{TOKEN_HEADER: "forged"})[0] == 403


def test_no_user_data_is_not_found() -> None:
    assert get(Metadata(INSTANCE, user_data=b""), "/latest/user-data")[0] == 404


def test_what_is_asked_is_on_record(metadata: Metadata) -> None:
    get(metadata, "/latest/user-data")
    metadata.answer(Request(method="DELETE", path="/latest/user-data"))
    assert [(seen.method, seen.path, seen.status) for seen in metadata.seen] == [
        ("GET", "/latest/user-data", 200), ("DELETE", "/latest/user-data", 405),
    ]  # fmt: skip


def test_the_service_speaks_http_on_its_socket(socket_path: Path) -> None:
    assert fetch(socket_path, "GET", "/latest/user-data") == (200, USER_DATA)
    assert fetch(socket_path, "HEAD", "/latest/user-data") == (200, b"")
    assert fetch(socket_path, "GET", "/latest/nothing")[0] == 404
    status, token = fetch(socket_path, "PUT", "/latest/api/token", {TTL_HEADER: "60"})
    assert status == 200 and fetch(socket_path, "GET", "/latest/user-data", {TOKEN_HEADER: token.decode()})[0] == 200
