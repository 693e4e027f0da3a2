"""One instance: its identifiers, addresses and serial numbers."""

from __future__ import annotations

import secrets
import socket
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from lifsea_testbed.ecs.instance_types import InstanceType
from lifsea_testbed.support.firmware import Firmware

#: The addresses of the cloud's services, within the guest's network 100.100.0.0/16.
METADATA_ADDRESS = "100.100.100.200"
MIRROR_ADDRESS = "100.100.2.148"
#: The address of the API server of its cluster, as of a load balancer of the cloud.
CLUSTER_ADDRESS, CLUSTER_PORT = "100.100.6.43", 6443
NAME_SERVERS = ("100.100.2.136", "100.100.2.138")
TIME_SERVERS = ("ntp.cloud.aliyuncs.com", "100.100.61.88")
PRIVATE_ADDRESS = "100.100.7.15"

_ALPHABET = string.ascii_lowercase + string.digits


def _identifier(prefix: str = "") -> str:
    """Returns a prefix and the twenty characters of an ECS identifier: two for the region, eighteen of its own."""
    return prefix + "uf6" + "".join(secrets.choice(_ALPHABET) for _ in range(17))


def _mac_address() -> str:
    # 00:16:3e is the prefix of every ECS NIC.
    return "00:16:3e:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A machine's identity: identifier, UUID, disk serials and MAC address are unique to each instance.

    A disk's serial is its identifier without `d-`, 20 characters (ECS documentation, "query the serial number of a
    disk"), the length of virtio-blk's serial field. `data_disk` is in GiB; 0 means that there is none. `firmware` is
    its boot mode.
    """

    type: InstanceType
    id: str = field(default_factory=lambda: _identifier("i-"))
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    disk_serial: str = field(default_factory=_identifier)
    data_disk: int = 0
    data_serial: str = field(default_factory=_identifier)
    firmware: Firmware = Firmware.BIOS
    mac: str = field(default_factory=_mac_address)
    public_address: str | None = None
    public_keys: tuple[str, ...] = ()
    role: str | None = None
    ends_at: str | None = None

    @property
    def disk_serials(self) -> list[str]:
        """The serials of its disks, the system disk's first."""
        return [self.disk_serial, *([self.data_serial] if self.data_disk else [])]

    @property
    def time_servers(self) -> tuple[str, ...]:
        """The time servers that the metadata service names."""
        return TIME_SERVERS

    @property
    def host_name(self) -> str:
        """The name that ECS gives an instance: `iZ` and the identifier, ended by `Z`."""
        return f"iZ{self.id.removeprefix('i-')[:18]}Z"


@dataclass(frozen=True, kw_only=True)
class NetworkInterface:
    """A further NIC (an elastic network interface): its MAC address, and a function that connects it at each power-on.

    `plug` returns QEMU's end of a stream socket with Ethernet frames, each after its length; the caller closes it.
    """

    plug: Callable[[], socket.socket]
    mac: str = field(default_factory=_mac_address)
