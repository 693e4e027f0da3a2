"""The metadata service's real clients as Debian packages them: unpacked, never installed, run in a network of ours."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.archive import Archive
from images.store import Store
from lifsea_testbed.ecs.http_server import MetadataService
from lifsea_testbed.ecs.instance import METADATA_ADDRESS
from lifsea_testbed.ecs.metadata import Metadata

#: The packages of each suite. The modules that cloud-init imports come from the suite whose Python runs it.
_PACKAGES = {
    "bookworm": [
        "ignition", "cloud-init", "python3-attr", "python3-certifi", "python3-chardet", "python3-configobj",
        "python3-idna", "python3-jinja2", "python3-json-pointer", "python3-jsonpatch", "python3-jsonschema",
        "python3-markupsafe", "python3-netifaces", "python3-oauthlib", "python3-pyrsistent", "python3-requests",
        "python3-serial", "python3-six", "python3-urllib3", "python3-yaml",
    ],
    "trixie": ["cloud-init"],
}  # fmt: skip
_MODULES = "usr/lib/python3/dist-packages"
_IGNITION = "usr/lib/dracut/modules.d/30ignition/ignition"
_TIMEOUT = 60.0
# The namespaces and all that runs in them end with the shell, and the shell with this process.
_ISOLATED = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c")
_NETWORK = f"""set -eu
ip link set lo up
ip address add {METADATA_ADDRESS}/32 dev lo
socat TCP-LISTEN:80,bind={METADATA_ADDRESS},fork,reuseaddr UNIX-CONNECT:metadata &
until grep -q ':0050 00000000:0000 0A' /proc/net/tcp; do sleep 0.02; done
"$@"
"""
# The host's firmware is not the instance's, so the data source gets the product name that a guest reads in its DMI.
_CRAWL = """
import json, sys
from cloudinit import dmi, helpers
dmi.read_dmi_data = {"system-product-name": "Alibaba Cloud ECS"}.get
from cloudinit.sources.DataSourceAliYun import DataSourceAliYun
paths = helpers.Paths({"cloud_dir": sys.argv[1], "run_dir": sys.argv[1]})
source = DataSourceAliYun({"datasource": {"AliYun": {"max_wait": 1, "timeout": 5}}}, None, paths)
if not source.get_data():
    sys.exit("nothing was found")
print(json.dumps({"id": source.get_instance_id(), "host_name": source.get_hostname()[0],
                  "keys": source.get_public_ssh_keys(), "user_data": source.get_userdata_raw().decode("latin-1"),
                  "metadata": source.metadata}))
"""


@dataclass(frozen=True, kw_only=True)
class Crawl:
    """The metadata as cloud-init parsed it."""

    id: str
    host_name: str
    keys: list[str]
    user_data: str
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """The exit status, the output and the stored configuration of Ignition's fetch stage."""

    status: int
    output: str
    config: dict[str, Any]


def unpacked(suite: str) -> Path:
    """Returns the directory with the clients of a Debian suite, fetched when there is none yet."""

    def make(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            Archive(Path(scratch) / "apt", packages=suite).unpack(_PACKAGES[suite], directory)

    return Store().artefact(f"clients-{suite}", [" ".join(_PACKAGES[suite])], make)


def run_client(metadata: Metadata, command: Sequence[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program where the metadata service has its own address, in a network that is gone with the program."""
    with MetadataService(metadata, directory / "metadata"):
        return subprocess.run([*_ISOLATED, _NETWORK, "sh", *command], cwd=directory, capture_output=True, text=True,
                              check=False, timeout=_TIMEOUT)  # fmt: skip


def cloud_init(suite: str, metadata: Metadata, directory: Path) -> Crawl | None:
    """Lets cloud-init's AliYun data source of that suite crawl the metadata; nothing if it found none."""
    modules = ":".join(str(unpacked(name) / _MODULES) for name in dict.fromkeys((suite, "bookworm")))
    command: list[str | Path] = ["env", f"PYTHONPATH={modules}", "/usr/bin/python3", "-c", _CRAWL, directory]
    ended = run_client(metadata, command, directory)
    if ended.returncode and "nothing was found" in ended.stderr:
        return None
    assert ended.returncode == 0, ended.stderr
    return Crawl(**json.loads(ended.stdout.splitlines()[-1]))


def ignition(metadata: Metadata, directory: Path) -> Fetch:
    """Lets Ignition fetch the configuration of an instance, into that directory and nowhere else."""
    config = directory / "ignition.json"
    command: list[str | Path] = [
        unpacked("bookworm") / _IGNITION, "--stage", "fetch", "--platform", "aliyun", "--log-to-stdout",
        "--root", directory, "--config-cache", config, "--neednet", directory / "neednet",
        "--state-file", directory / "state",
    ]  # fmt: skip
    ended = run_client(metadata, command, directory)
    kept = json.loads(config.read_text()) if config.exists() else {}
    return Fetch(status=ended.returncode, output=ended.stdout, config=kept)
