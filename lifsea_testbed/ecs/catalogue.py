"""The ecs.g7 instance types: what each size offers a guest."""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.errors import ProfileRefused


@dataclass(frozen=True, kw_only=True)
class InstanceType:
    """One instance type: virtual CPUs (two threads a core), memory in MiB, queues of each network card.

    Source: Alibaba Cloud ECS documentation, "general-purpose instance families", table of g7.
    """

    name: str
    cpus: int
    memory: int
    queues: int


def _g7(size: str, cpus: int, gibibytes: int, queues: int) -> InstanceType:
    return InstanceType(name=f"ecs.g7.{size}", cpus=cpus, memory=gibibytes * 1024, queues=queues)


_TYPES = (
    _g7("large", 2, 8, 2),
    _g7("xlarge", 4, 16, 4),
    _g7("2xlarge", 8, 32, 8),
    _g7("3xlarge", 12, 48, 8),
    _g7("4xlarge", 16, 64, 8),
    _g7("6xlarge", 24, 96, 12),
    _g7("8xlarge", 32, 128, 16),
    _g7("16xlarge", 64, 256, 32),
    _g7("32xlarge", 128, 512, 32),
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
