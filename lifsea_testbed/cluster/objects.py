"""Nodes and pods, as far as they are judged."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass


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
