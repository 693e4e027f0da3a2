"""The real clients of the metadata service are served as the cloud serves them.

Afterburn is no Debian package; tests/ecs/test_metadata.py makes its requests.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lifsea_testbed.ecs import instance_types
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.metadata import Metadata
from tests.support.clients import cloud_init, ignition, run_client

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a network of its own")

KEYS = ["ssh-ed25519 AAAA one", "ssh-ed25519 AAAA two"]
INSTANCE = Instance(type=instance_types.find("ecs.g7.large"), public_keys=tuple(KEYS))
CONFIG = {"ignition": {"version": "3.3.0"},
          "storage": {"files": [{"path": "/etc/x", "contents": {"source": "data:,y"}}]}}  # fmt: skip
SCRIPT = b"#!/bin/sh\nprintf '\\377'\n\xff"


def requests(metadata: Metadata) -> list[tuple[str, str, int]]:
    return [(seen.method, seen.path, seen.status) for seen in metadata.requests]


def script(*, token_required: bool = False) -> Metadata:
    return Metadata(INSTANCE, user_data=SCRIPT, token_required=token_required)


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_cloud_init_learns_all_of_an_instance(suite: str, tmp_path: Path) -> None:
    """22.4 (bookworm) walks the tree without a token, 25.1 (trixie) gets a token and requests everything at once."""
    found = cloud_init(suite, script(), tmp_path)
    assert found is not None
    assert (found.id, found.host_name, found.keys) == (INSTANCE.id, INSTANCE.host_name, KEYS)
    assert found.user_data.encode("latin-1") == SCRIPT
    assert found.metadata["dns-conf"]["nameservers"] == ["100.100.2.136", "100.100.2.138"]
    assert found.metadata["network"]["interfaces"]["macs"][INSTANCE.mac]["gateway"] == "100.100.0.2"


def test_the_tree_and_the_whole_are_the_same_to_cloud_init(tmp_path: Path) -> None:
    walked, whole = cloud_init("bookworm", script(), tmp_path), cloud_init("trixie", script(), tmp_path)
    assert walked == whole


def test_cloud_init_asks_a_hardened_instance_with_a_token(tmp_path: Path) -> None:
    metadata = script(token_required=True)
    found = cloud_init("trixie", metadata, tmp_path)
    assert found is not None and found.id == INSTANCE.id
    assert requests(metadata) == [
        ("PUT", "/latest/api/token", 200), ("GET", "/2016-01-01/user-data", 200),
        ("GET", "/2016-01-01/vendor-data", 404), ("GET", "/2016-01-01/meta-data/all", 200),
    ]  # fmt: skip
    assert [seen.with_token for seen in metadata.requests] == [False, True, True, True]


def test_cloud_init_without_tokens_learns_nothing_of_a_hardened_instance(tmp_path: Path) -> None:
    metadata = script(token_required=True)
    assert cloud_init("bookworm", metadata, tmp_path) is None
    assert set(requests(metadata)) == {("GET", "/2016-01-01/meta-data/instance-id", 403)}


def test_ignition_fetches_its_configuration(tmp_path: Path) -> None:
    metadata = Metadata(INSTANCE, user_data=json.dumps(CONFIG).encode())
    fetched = ignition(metadata, tmp_path)
    assert fetched.status == 0, fetched.output
    assert [file["path"] for file in fetched.config["storage"]["files"]] == ["/etc/x"]
    assert requests(metadata) == [("GET", "/latest/user-data", 200)]


def test_ignition_is_content_with_no_user_data(tmp_path: Path) -> None:
    metadata = Metadata(INSTANCE, user_data=b"")
    fetched = ignition(metadata, tmp_path)
    assert fetched.status == 0, fetched.output
    assert requests(metadata) == [("GET", "/latest/user-data", 404)]


def test_ignition_knows_no_tokens(tmp_path: Path) -> None:
    metadata = Metadata(INSTANCE, user_data=json.dumps(CONFIG).encode(), token_required=True)
    fetched = ignition(metadata, tmp_path)
    assert fetched.status != 0 and "Forbidden" in fetched.output
    assert requests(metadata) == [("GET", "/latest/user-data", 403)]


def test_the_network_is_gone_with_a_client_that_failed(tmp_path: Path) -> None:
    failed = run_client(script(), ["sh", "-c", "readlink /proc/self/ns/net; sleep 60 & exit 3"], tmp_path)
    assert failed.returncode == 3
    own = str(Path("/proc/self/ns/net").readlink())
    left = {link for path in Path("/proc").glob("[0-9]*/ns/net") if (link := _target(path)) is not None}
    assert own in left and failed.stdout.strip() not in {own, *left}


def _target(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None
