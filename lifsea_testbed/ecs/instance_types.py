"""The ecs.g7 instance types: CPUs, memory, network and disk limits of each size."""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.errors import ProfileRefused

#: Bytes a second of one Gbit/s.
_GIGABIT = 10**9 // 8
#: Of a Xeon Platinum 8369B.
_CORES_OF_SOCKET, _THREADS = 32, 2
#: The numbers of CPUs whose arrangement is known.
_SEEN = frozenset({2, 8})


@dataclass(frozen=True, kw_only=True)
class DiskLimits:
    """The limits of all disks of an instance together: operations and bytes a second, sustained and in a burst.

    A burst equal to the sustained limit means that there are no bursts.
    """

    operations: int
    operations_burst: int
    bandwidth: int
    bandwidth_burst: int


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The CPU topology: sockets, cores of each socket, threads of each core."""

    sockets: int
    cores: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class InstanceType:
    """One instance type: virtual CPUs, memory in MiB, queues of each NIC, network in Gbit/s, limits of the disks.

    Source: Alibaba Cloud ECS documentation, "general-purpose instance families", table of g7, as of 2025; up to 2022
    it had bursts of 110,000 operations and 6 Gbit/s up to 4xlarge, and none from 6xlarge on.
    """

    name: str
    cpus: int
    memory: int
    queues: int
    network: int
    disks: DiskLimits

    @property
    def topology(self) -> Topology:
        """Two threads a core, and as few sockets as hold the cores.

        Two threads are documented (ECS, "CPU options"). One socket is what lscpu shows on an ecs.g7.2xlarge (8 CPUs),
        and what the two threads of an ecs.g7.large leave. An 8369B has 32 cores (a host with two of them: 128 threads).
        """
        cores = self.cpus // _THREADS
        sockets = -(-cores // _CORES_OF_SOCKET)
        return Topology(sockets=sockets, cores=cores // sockets, threads=_THREADS)

    @property
    def inferred(self) -> str:
        """What of the topology is inferred from the processor of the host, and was not seen on this type."""
        if self.cpus in _SEEN:
            return ""
        nodes = ", and one memory node where there may be two" if self.topology.sockets > 1 else ""
        return f"the number of sockets of an {self.name}, {self.topology.sockets}{nodes}"


def _limits(operations: tuple[int, int], gigabits: tuple[float, float]) -> DiskLimits:
    """Returns the limits, each as sustained and burst: thousands of operations a second, and Gbit/s."""
    (lasting, burst), (steady, peak) = operations, gigabits
    return DiskLimits(operations=lasting * 1000, operations_burst=burst * 1000, bandwidth=int(steady * _GIGABIT),
                      bandwidth_burst=int(peak * _GIGABIT))  # fmt: skip


def _g7(size: str, cpus: int, gibibytes: int, queues: int, network: int, disks: DiskLimits) -> InstanceType:
    return InstanceType(name=f"ecs.g7.{size}", cpus=cpus, memory=gibibytes * 1024, queues=queues, network=network,
                        disks=disks)  # fmt: skip


_TYPES = (
    _g7("large", 2, 8, 2, 2, _limits((20, 160), (1.5, 10))),
    _g7("xlarge", 4, 16, 4, 3, _limits((40, 160), (2, 10))),
    _g7("2xlarge", 8, 32, 8, 5, _limits((50, 160), (3, 10))),
    _g7("3xlarge", 12, 48, 8, 8, _limits((70, 160), (4, 10))),
    _g7("4xlarge", 16, 64, 8, 10, _limits((80, 160), (5, 10))),
    _g7("6xlarge", 24, 96, 12, 12, _limits((110, 160), (6, 10))),
    _g7("8xlarge", 32, 128, 16, 16, _limits((160, 160), (10, 10))),
    _g7("16xlarge", 64, 256, 32, 32, _limits((360, 360), (16, 16))),
    _g7("32xlarge", 128, 512, 32, 64, _limits((600, 600), (32, 32))),
)
CATALOGUE = {instance_type.name: instance_type for instance_type in _TYPES}
DEFAULT = "ecs.g7.large"


def find(name: str) -> InstanceType:
    """Returns the instance type of that name.

    Raises:
        ProfileRefused: there is none.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise ProfileRefused(f"unknown instance type {name!r}", hint=f"one of {', '.join(CATALOGUE)}") from None
