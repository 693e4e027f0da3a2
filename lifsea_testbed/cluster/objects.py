"""Nodes and pods, as far as they are judged."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from lifsea_testbed.machine.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node as the API has it: its conditions (name → status and why), capacity, versions and labels.

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
        """Each condition that speaks against it, and why: Ready that is not True, and any other that is."""
        return "; ".join(f"{name}={status}: {why}" for name, (status, why) in self.conditions.items()
                         if (status != "True") == (name == "Ready"))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod as the API has it; `why` says what its containers wait for, or how they ended."""

    name: str
    node: str
    phase: str
    address: str
    why: str


@dataclass(frozen=True, kw_only=True)
class JoinedNode:
    """A machine that is a Ready node: what the API says of it, and the seconds from power-on until it was Ready.

    `runs` is what the machine itself says that it runs, by the names of the node's fields; `labels` are those that a
    node of its type has; `checks` is what its kubelet's checks of itself answer, by their names.
    """

    machine: Machine
    node: Node
    seconds: float
    runs: Mapping[str, str]
    labels: Mapping[str, str]
    checks: Mapping[str, str]

    @property
    def reported(self) -> dict[str, str]:
        """What the node says that it runs."""
        return {name: getattr(self.node, name) for name in ("os", "kernel", "runtime", "kubelet")}


@dataclass(frozen=True, kw_only=True)
class PodRun:
    """A pod that was put onto a node by name: as it ran, and what it wrote.

    Its script asks the metadata service for the instance's identifier: `answer` is what came back over the network
    of pods, and `seconds` what passed from its creation until it ran.
    """

    machine: Machine
    node: str
    pod: Pod
    answer: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class InterruptedNode:
    """A node that lost the API server, and one whose kubelet stopped: whether it was Ready meanwhile and after.

    `kept` tells whether its pod's container went on all the while, the same one. `left` is what is left, in the end, of
    a pod that was deleted at the beginning: in the API, or of its containers.
    """

    machine: Machine
    ready_while_cut: bool
    kept_while_cut: bool
    ready_after_cut: bool
    kept_after_cut: bool
    ready_while_stopped: bool
    ready_after_stop: bool
    left: list[str]
