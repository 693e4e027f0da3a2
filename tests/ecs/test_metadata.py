"""The metadata service answers as the cloud's does."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifsea_testbed.ecs import instance_types
from lifsea_testbed.ecs import metadata as metadata_module
from lifsea_testbed.ecs.http_server import MetadataService
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import TOKEN_HEADER, TTL_HEADER, Metadata, Request
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.support.confinement import Confinement
from lifsea_testbed.support.deadline import TimeScale

INSTANCE = Instance(type=instance_types.find("ecs.g7.large"))
FURNISHED = dataclasses.replace(INSTANCE, public_address="203.0.113.7", role="node", ends_at="2026-01-01T00:00:00Z",
                                public_keys=("ssh-ed25519 AAAA one", "ssh-ed25519 AAAA two"))  # fmt: skip
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
                                             ("", 400), ("²", 400), ("-1", 400), ("000000060", 200), ("0216001", 400),
                                             ("000001999999999", 400), ("1" * 5000, 400), ("0" * 5000, 400),
                                             (" 60", 400), ("60 ", 400), ("6_0", 400)])  # fmt: skip
def test_a_token_lives_from_one_second_to_six_hours(metadata: Metadata, ttl: str, status: int) -> None:
    asked = Request(method="PUT", path="/latest/api/token", headers={TTL_HEADER: ttl})
    assert metadata.answer(asked).status == status


def test_a_token_that_has_expired_is_no_token() -> None:
    now = [100.0]
    metadata = Metadata(INSTANCE, user_data=USER_DATA, clock=lambda: now[0])
    token = metadata.answer(Request(method="PUT", path="/latest/api/token", headers={TTL_HEADER: "60"})).body.decode()
    now[0] = 159.9
    assert get(metadata, "/latest/user-data", **{TOKEN_HEADER: token})[0] == 200
    now[0] = 160.0
    assert get(metadata, "/latest/user-data", **{TOKEN_HEADER: token})[0] == 403
    assert get(metadata, "/latest/user-data")[0] == 200


def put_token(metadata: Metadata) -> str:
    request = Request(method="PUT", path="/latest/api/token", headers={TTL_HEADER: "60"})
    return metadata.answer(request).body.decode()


def test_tokens_can_be_read_while_others_are_issued(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consoles' threads read them for each line, the service's threads issue them."""
    done = threading.Event()
    monkeypatch.setattr(metadata_module, "_MOST_REQUESTS", 1 << 30)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            readers = [pool.submit(_read_tokens, metadata, done) for _ in range(2)]
            for issued in [pool.submit(lambda: [put_token(metadata) for _ in range(1500)]) for _ in range(2)]:
                issued.result(60)
            done.set()
            assert all(reader.result(60) > 0 for reader in readers)
    finally:
        done.set()
        sys.setswitchinterval(interval)


def _read_tokens(metadata: Metadata, done: threading.Event) -> int:
    most = 0
    while not done.is_set():
        most = max(most, len(metadata.tokens))
    return most


def test_a_guest_that_never_stops_asking_does_not_fill_the_hosts_memory(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [put_token(metadata) for _ in range(1000)]
    assert list(metadata.tokens) == tokens[-256:]
    assert get(metadata, "/latest/user-data", **{TOKEN_HEADER: tokens[-1]})[0] == 200
    monkeypatch.setattr(metadata_module, "_MOST_REQUESTS", 1002)
    assert get(metadata, f"/{'x' * 60_000}")[0] == 414
    assert get(metadata, "/latest/user-data") == (429, b"")
    assert len(metadata.requests) == 1002 and len(metadata.requests[-1].path) == 1000


def test_a_token_is_put_and_nothing_else_is(metadata: Metadata) -> None:
    assert metadata.answer(Request(method="GET", path="/latest/api/token")).status == 404
    assert metadata.answer(Request(method="PUT", path="/latest/user-data", headers={TTL_HEADER: "60"})).status == 404
    assert metadata.answer(Request(method="POST", path="/latest/api/token", headers={TTL_HEADER: "60"})).status == 405


def test_without_its_token_a_hardened_instance_learns_nothing() -> None:
    metadata = Metadata(INSTANCE, user_data=USER_DATA, token_required=True)
    assert get(metadata, "/latest/meta-data/instance-id")[0] == 403
    token = metadata.answer(Request(method="PUT", path="/latest/api/token", headers={TTL_HEADER: "60"})).body.decode()
    assert get(metadata, "/latest/meta-data/instance-id", **{TOKEN_HEADER: token})[0] == 200
    assert get(metadata, "/latest/meta-data/instance-id", **{TOKEN_HEADER: "forged"})[0] == 403


def test_a_machine_of_a_profile_that_requires_tokens_requires_them(tmp_path: Path) -> None:
    profile = profiles.load("reference").model_copy(update={"metadata": profiles.MetadataSection(token="required")})
    hardware: Any = SimpleNamespace(instance=INSTANCE, memory=8192, has_hub=False,
                                    accelerator=Accelerator(kind=AcceleratorKind.TCG, speed=1800.0, why="requested"))
    image: Any = SimpleNamespace(virtual_size=1 << 20)
    machine = Machine(hardware=hardware, image=image, profile=lambda: profile, time_scale=TimeScale(factor=1.0),
                      directory=tmp_path, records=tmp_path, confinement=Confinement(uid=os.geteuid(), gid=os.getegid()))
    with contextlib.closing(machine):
        assert fetch(tmp_path / "services" / "metadata", "GET", "/latest/user-data")[0] == 403
        assert [(seen.path, seen.status) for seen in machine.requests] == [("/latest/user-data", 403)]


@pytest.mark.parametrize("path", [
    "instance-id", "hostname", "image-id", "serial-number", "region-id", "zone-id", "owner-account-id",
    "source-address", "network-type", "vpc-id", "vpc-cidr-block", "vswitch-id", "vswitch-cidr-block",
    "dns-conf/nameservers", "ntp-conf/ntp-servers", "mac", "private-ipv4", "public-ipv4", "eipv4",
    "instance/instance-type", "instance/instance-name", "instance/max-netbw-egress",
    "instance/virtualization-solution", "instance/virtualization-solution-version", "instance/spot/termination-time",
    *(f"network/interfaces/macs/{INSTANCE.mac}/{name}" for name in (
        "network-interface-id", "primary-ip-address", "private-ipv4s", "netmask", "gateway", "vpc-cidr-block",
        "vswitch-cidr-block",
    )),
    f"disks/{INSTANCE.disk_serial}/id", f"disks/{INSTANCE.disk_serial}/name", "public-keys/0/openssh-key",
    "public-keys/1/openssh-key", "ram/security-credentials/node",
])  # fmt: skip
def test_every_documented_item_is_there(path: str) -> None:
    metadata = Metadata(FURNISHED, user_data=b"")
    status, body = get(metadata, f"/latest/meta-data/{path}")
    assert status == 200 and body
    parent, _, name = path.rpartition("/")
    assert name.encode() in get(metadata, f"/latest/meta-data/{parent}/")[1].split(b"\n")


@pytest.mark.parametrize("path", ["eipv4", "public-ipv4", "public-keys/", "ram/security-credentials/",
                                  "instance/spot/termination-time"])  # fmt: skip
def test_what_an_instance_has_not_is_not_found(metadata: Metadata, path: str) -> None:
    assert get(metadata, f"/latest/meta-data/{path}")[0] == 404


def test_lists_end_their_lines_as_the_service_does(metadata: Metadata) -> None:
    assert get(metadata, "/latest/meta-data/dns-conf/nameservers")[1] == b"100.100.2.136\r\n100.100.2.138"
    whole = json.loads(get(metadata, "/latest/meta-data/all")[1])
    assert whole["dns-conf"]["nameservers"] == "100.100.2.136\r\n100.100.2.138"


def test_credentials_are_not_told_with_all_the_rest() -> None:
    whole = json.loads(get(Metadata(FURNISHED, user_data=b""), "/2016-01-01/meta-data/all")[1])
    assert "ram" not in whole and whole["public-keys"]["1"]["openssh-key"] == "ssh-ed25519 AAAA two"


def test_the_identity_document_names_the_instance(metadata: Metadata) -> None:
    document = json.loads(get(metadata, "/latest/dynamic/instance-identity/document")[1])
    assert document["instance-id"] == INSTANCE.id
    assert get(metadata, "/latest/dynamic/instance-identity/pkcs7")[0] == 404


def test_afterburn_gets_what_it_asks_for() -> None:
    """The requests of afterburn's aliyun provider (src/providers/aliyun/mod.rs), which Debian does not package.

    None has a token; whatever is 404 is left out.
    """
    attributes = ("eipv4", "hostname", "image-id", "instance-id", "instance/instance-type", "private-ipv4",
                  "public-ipv4", "region-id", "vpc-id", "zone-id")  # fmt: skip
    metadata = Metadata(FURNISHED, user_data=b"")
    answers = {name: get(metadata, f"/latest/meta-data/{name}") for name in attributes}
    assert {status for status, _ in answers.values()} == {200}
    keys = get(metadata, "/latest/meta-data/public-keys/")[1].decode().splitlines()
    assert [get(metadata, f"/latest/meta-data/public-keys/{key.rstrip('/')}/openssh-key")[1] for key in keys] == [
        b"ssh-ed25519 AAAA one", b"ssh-ed25519 AAAA two",
    ]  # fmt: skip


def test_no_user_data_is_not_found() -> None:
    assert get(Metadata(INSTANCE, user_data=b""), "/latest/user-data")[0] == 404


def test_what_is_asked_is_on_record(metadata: Metadata) -> None:
    get(metadata, "/latest/user-data")
    metadata.answer(Request(method="DELETE", path="/latest/user-data"))
    assert [(seen.method, seen.path, seen.status) for seen in metadata.requests] == [
        ("GET", "/latest/user-data", 200), ("DELETE", "/latest/user-data", 405),
    ]  # fmt: skip


def test_the_service_speaks_http_on_its_socket(socket_path: Path) -> None:
    assert fetch(socket_path, "GET", "/latest/user-data") == (200, USER_DATA)
    assert fetch(socket_path, "HEAD", "/latest/user-data") == (200, b"")
    assert fetch(socket_path, "GET", "/latest/nothing")[0] == 404
    status, token = fetch(socket_path, "PUT", "/latest/api/token", {TTL_HEADER: "60"})
    assert status == 200 and fetch(socket_path, "GET", "/latest/user-data", {TOKEN_HEADER: token.decode()})[0] == 200
