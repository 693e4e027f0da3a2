"""What the metadata service of an instance answers: a pure function of the request, and the record of what was asked.

Source: ECS documentation, "view instance metadata"; the paths of cloud-init's DataSourceAliYun are listed there too.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from lifsea_testbed.ecs.instance import NAME_SERVERS, PRIVATE_ADDRESS, TIME_SERVERS, Instance

TOKEN_HEADER = "x-aliyun-ecs-metadata-token"
TTL_HEADER = "x-aliyun-ecs-metadata-token-ttl-seconds"
_LONGEST_TTL = 21600
_VERSIONS = ("latest", "2016-01-01")
_REGION, _ZONE = "cn-shanghai", "cn-shanghai-g"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Response:
    """One HTTP response."""

    status: int
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request that the guest made, when (host's monotonic clock, seconds), and the status that it got."""

    at: float
    method: str
    path: str
    status: int


class Metadata:
    """Answers for one instance and remembers each request.

    Guarantees what the real service does: tokens by PUT with a time to live of 1 to 21600 s; with `token_required`
    a GET without a valid token is 403; an unknown path is 404; a path that ends in a slash lists what is below.
    """

    def __init__(self, instance: Instance, *, user_data: bytes, token_required: bool = False) -> None:
        self.seen: list[Seen] = []
        self._user_data = user_data
        self._token_required = token_required
        self._tokens: dict[str, float] = {}
        self._tree = _tree(instance)

    def answer(self, request: Request) -> Response:
        """Returns the response to that request and records both."""
        response = self._put_token(request) if request.method == "PUT" else self._get(request)
        self.seen.append(Seen(at=time.monotonic(), method=request.method, path=request.path, status=response.status))
        return response

    def _put_token(self, request: Request) -> Response:
        if request.path.strip("/") != "latest/api/token":
            return Response(status=404)
        ttl = request.headers.get(TTL_HEADER, "")
        if not ttl.isascii() or not ttl.isdigit() or not 1 <= int(ttl[:6]) <= _LONGEST_TTL:
            return Response(status=400)
        token = secrets.token_urlsafe(24)
        self._tokens[token] = time.monotonic() + int(ttl)
        return Response(status=200, body=token.encode())

    def _get(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(status=405)
        token = request.headers.get(TOKEN_HEADER)
        if (self._token_required or token is not None) and self._tokens.get(token or "", 0.0) < time.monotonic():
            return Response(status=403)
        version, _, path = request.path.lstrip("/").partition("?")[0].partition("/")
        body = self._body(path) if version in _VERSIONS else None
        return Response(status=404) if body is None else Response(status=200, body=body)

    def _body(self, path: str) -> bytes | None:
        if path == "user-data":
            return self._user_data or None
        if path == "meta-data/all":
            return json.dumps(_nested(self._tree)).encode()
        if path.startswith("meta-data/") and path.removeprefix("meta-data/") in self._tree:
            return self._tree[path.removeprefix("meta-data/")].encode()
        return _listing(self._tree, path)


def _listing(tree: Mapping[str, str], path: str) -> bytes | None:
    """The names directly below a directory, one a line, directories with a slash; nothing if there is no such."""
    if path.rstrip("/") != "meta-data" and not path.startswith("meta-data/"):
        return None
    directory = path.removeprefix("meta-data").strip("/")
    prefix = f"{directory}/" if directory else ""
    below = [key.removeprefix(prefix) for key in tree if key.startswith(prefix)]
    names = dict.fromkeys(name.partition("/")[0] + ("/" if "/" in name else "") for name in below)
    return "\n".join(names).encode() if names else None


def _nested(tree: Mapping[str, str]) -> dict[str, object]:
    """The tree as nested JSON objects, the shape that cloud-init reads from meta-data/all."""
    nested: dict[str, object] = {}
    for path, value in tree.items():
        *parents, leaf = path.split("/")
        place = nested
        for parent in parents:
            child = place.setdefault(parent, {})
            assert isinstance(child, dict)
            place = child
        place[leaf] = value.split("\r\n") if "\r\n" in value else value
    return nested


def _tree(instance: Instance) -> dict[str, str]:
    """Every leaf below meta-data/."""
    card = f"network/interfaces/macs/{instance.mac}"
    return {
        "instance-id": instance.id,
        "hostname": instance.host_name,
        "image-id": "lifsea_3_x64_10G_alibase.qcow2",
        "serial-number": instance.uuid,
        "region-id": _REGION,
        "zone-id": _ZONE,
        "owner-account-id": "1000000000000000",
        "network-type": "vpc",
        "vpc-id": "vpc-uf6testbed",
        "vpc-cidr-block": "100.100.0.0/16",
        "vswitch-id": "vsw-uf6testbed",
        "vswitch-cidr-block": "100.100.0.0/16",
        "mac": instance.mac,
        "private-ipv4": PRIVATE_ADDRESS,
        "dns-conf/nameservers": "\r\n".join(NAME_SERVERS),
        "ntp-conf/ntp-servers": "\r\n".join(TIME_SERVERS),
        "instance/instance-type": instance.type.name,
        "instance/instance-name": instance.host_name,
        "instance/virtualization-solution": "ECS Virt",
        "instance/virtualization-solution-version": "2",
        f"{card}/network-interface-id": "eni-uf6testbed",
        f"{card}/primary-ip-address": PRIVATE_ADDRESS,
        f"{card}/private-ipv4s": f'["{PRIVATE_ADDRESS}"]',
        f"{card}/netmask": "255.255.0.0",
        f"{card}/gateway": "100.100.0.2",
        f"{card}/vpc-cidr-block": "100.100.0.0/16",
        f"{card}/vswitch-id": "vsw-uf6testbed",
        f"{card}/vswitch-cidr-block": "100.100.0.0/16",
        f"disks/{instance.disk_serial}/id": f"d-{instance.disk_serial}",
        f"disks/{instance.disk_serial}/name": "system disk",
    }
