"""The metadata of an instance: a tree of paths, of which each leaf is text of one or more lines.

Source: ECS documentation, "view instance metadata"; the shape of `meta-data/all` is that of cloud-init's
cloudinit/sources/helpers/aliyun.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from lifsea_testbed.ecs.instance import NAME_SERVERS, PRIVATE_ADDRESS, TIME_SERVERS, Instance

_REGION, _ZONE = "cn-shanghai", "cn-shanghai-g"
_IMAGE = "lifsea_3_x64_10G_alibase.qcow2"
_OWNER = "1000000000000000"
_VPC, _SWITCH, _NETWORK, _NETMASK, _GATEWAY = (
    "vpc-uf6testbed", "vsw-uf6testbed", "100.100.0.0/16", "255.255.0.0", "100.100.0.2",
)  # fmt: skip
#: Kbit/s of one Gbit/s, as `max-netbw-egress` counts: 2560000 for the 2.5 Gbit/s of an ecs.g8i.large (cloud-init's
#: sample of a whole answer).
_GIGABIT = 1024 * 1000
#: Credentials of a role, valid nowhere.
_CREDENTIALS = {"Code": "Success", "AccessKeyId": "STS.testbed", "AccessKeySecret": "testbed",
                "SecurityToken": "testbed", "LastUpdated": "2026-01-01T00:00:00Z",
                "Expiration": "2036-01-01T00:00:00Z"}  # fmt: skip
_SECRETS = "ram/"
_DISKS = ("system disk", "data disk")


def meta_data(instance: Instance) -> dict[str, str]:
    """Returns every leaf below meta-data/ that the instance has: without an elastic address there is no `eipv4`.

    Items of lists are on lines that end with CR LF, as in the real service.
    """
    return {**_identity(instance), **_place(instance), **_optional(instance)}


def document(instance: Instance) -> str:
    """Returns the instance identity document; only the cloud can make its signature (pkcs7)."""
    return json.dumps({
        "instance-id": instance.id, "serial-number": instance.uuid, "instance-type": instance.type.name,
        "image-id": _IMAGE, "mac": instance.mac, "private-ipv4": PRIVATE_ADDRESS, "owner-account-id": _OWNER,
        "region-id": _REGION, "zone-id": _ZONE,
    })  # fmt: skip


def listing(tree: Mapping[str, str], directory: str) -> str | None:
    """Returns the names directly below a directory, one a line, directories with a slash; None without such names."""
    prefix = f"{directory.strip('/')}/" if directory.strip("/") else ""
    below = [key.removeprefix(prefix) for key in tree if key.startswith(prefix)]
    names = dict.fromkeys(name.partition("/")[0] + ("/" if "/" in name else "") for name in below)
    return "\n".join(names) if names else None


def whole(tree: Mapping[str, str]) -> str:
    """Returns the tree as nested JSON objects, with the same text at each leaf; without credentials."""
    nested: dict[str, object] = {}
    for path, value in tree.items():
        if path.startswith(_SECRETS):
            continue
        *parents, leaf = path.split("/")
        place = nested
        for parent in parents:
            child = place.setdefault(parent, {})
            assert isinstance(child, dict)
            place = child
        place[leaf] = value
    return json.dumps(nested)


def _identity(instance: Instance) -> dict[str, str]:
    return {
        "instance-id": instance.id,
        "hostname": instance.host_name,
        "image-id": _IMAGE,
        "serial-number": instance.uuid,
        "owner-account-id": _OWNER,
        "mac": instance.mac,
        "instance/instance-type": instance.type.name,
        "instance/instance-name": instance.host_name,
        "instance/max-netbw-egress": str(instance.type.network * _GIGABIT),
        "instance/virtualization-solution": "ECS Virt",
        "instance/virtualization-solution-version": "2",
        **{f"disks/{serial}/id": f"d-{serial}" for serial in instance.disk_serials},
        **{f"disks/{serial}/name": name for serial, name in zip(instance.disk_serials, _DISKS, strict=False)},
    }


def _place(instance: Instance) -> dict[str, str]:
    """The location of the instance: region, network, and the services there."""
    network = {"vpc-id": _VPC, "vpc-cidr-block": _NETWORK, "vswitch-id": _SWITCH, "vswitch-cidr-block": _NETWORK}
    card = {
        "network-interface-id": "eni-uf6testbed", "primary-ip-address": PRIVATE_ADDRESS,
        "private-ipv4s": json.dumps([PRIVATE_ADDRESS]), "netmask": _NETMASK, "gateway": _GATEWAY, **network,
    }  # fmt: skip
    return {
        "region-id": _REGION,
        "zone-id": _ZONE,
        "network-type": "vpc",
        **network,
        "private-ipv4": PRIVATE_ADDRESS,
        "source-address": "http://mirrors.cloud.aliyuncs.com",
        "dns-conf/nameservers": "\r\n".join(NAME_SERVERS),
        "ntp-conf/ntp-servers": "\r\n".join(TIME_SERVERS),
        **{f"network/interfaces/macs/{instance.mac}/{name}": value for name, value in card.items()},
    }


def _optional(instance: Instance) -> dict[str, str]:
    """The items that only some instances have: a public address, key pairs, a role, an announced end."""
    found = {f"public-keys/{number}/openssh-key": key for number, key in enumerate(instance.public_keys)}
    if instance.public_address:
        found |= {"eipv4": instance.public_address, "public-ipv4": instance.public_address}
    if instance.role:
        found |= {f"{_SECRETS}security-credentials/{instance.role}": json.dumps(_CREDENTIALS)}
    if instance.ends_at:
        found |= {"instance/spot/termination-time": instance.ends_at}
    return found
