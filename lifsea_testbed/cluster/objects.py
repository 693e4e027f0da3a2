"""Nodes and pods as the tests judge them: plain values that need none of the packages of a cluster."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from lifsea_testbed.machine.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node in the API: its conditions (name → status and why), capacity, versions and labels.

    `reported` is when the kubelet last reported by its own clock, `processors` a number, `memory` in KiB, `boot` the
    kernel's identifier of the boot that it reported from.
    """

    name: str
    conditions: Mapping[str, tuple[str, str]]
    reported: datetime.datetime | None
    processors: int
    memory: int
    kubelet: str
    os: str
    kernel: str
    runtime: str
    boot: str
    labels: Mapping[str, str]
    is_cordoned: bool

    @property
    def is_ready(self) -> bool:
        """Whether its condition Ready is True."""
        return self.conditions.get("Ready", ("", ""))[0] == "True"

    @property
    def why_not(self) -> str:
        """The conditions of a node that is not well, with reasons: Ready that is not True, any other that is True."""
        return "; ".join(f"{name}={status}: {why}" for name, (status, why) in self.conditions.items()
                         if (status != "True") == (name == "Ready"))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod in the API; `why` is the reason for which its containers wait, or ended."""

    name: str
    node: str
    phase: str
    address: str
    why: str


@dataclass(frozen=True, kw_only=True)
class JoinedNode:
    """A machine that became a Ready node, and the seconds from power-on until then.

    `runs` are the versions that the machine itself reports, by the names of the node's fields; `labels` are those that
    a node of its type must have; `checks` are the answers of its kubelet's healthz, by the names of the parts.
    """

    machine: Machine
    node: Node
    seconds: float
    runs: Mapping[str, str]
    labels: Mapping[str, str]
    checks: Mapping[str, str]

    @property
    def reported(self) -> dict[str, str]:
        """The versions that the node reports to the API, by the names of its fields."""
        return {name: getattr(self.node, name) for name in ("os", "kernel", "runtime", "kubelet")}


@dataclass(frozen=True, kw_only=True)
class PodRun:
    """A pod that was put onto a node by name, while it ran.

    Its script requests the instance's identifier from the metadata service: `answer` is the response through the pod
    network. `seconds` passed from its creation until it ran.
    """

    machine: Machine
    node: str
    pod: Pod
    answer: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class InterruptedNode:
    """A node that lost the API server, then its kubelet: whether it was Ready during each interruption and after it.

    `kept_...` is whether its pod's container kept running, the same one. `left` lists the remains, at the end, of a pod
    that was deleted at the beginning: in the API, and its containers.
    """

    machine: Machine
    ready_while_cut: bool
    kept_while_cut: bool
    ready_after_cut: bool
    kept_after_cut: bool
    ready_while_stopped: bool
    ready_after_stop: bool
    left: list[str]
