"""Machines on the reference image, for the tests that need a real guest."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.pool import MachinePool
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.machine.snapshot_cache import SnapshotCache
from lifsea_testbed.profiles.profile import AccessSection
from tests.support import ROOT


def built(name: str) -> Path:
    """The image of that recipe, from the cache if it was built before."""
    image = ROOT / f"build/{name}.qcow2"
    subprocess.run([sys.executable, "-m", "images", "build", name, "-o", str(image)], cwd=ROOT, check=True)
    return image


def control_plane() -> Path:
    """The directory with the programs of the control plane, from the cache if they were built before."""
    programs = ROOT / "build/control-plane"
    subprocess.run([sys.executable, "-m", "images", "control-plane", "-o", str(programs)], cwd=ROOT, check=True)
    return programs


@contextlib.contextmanager
def bench(reports: Path, **access: Any) -> Iterator[MachineFactory]:
    """A machine factory for the reference image, with that access section in its profile."""
    context = run_context(image=str(built("reference")), profile="reference", instance_type="ecs.g7.large",
                          accelerator="auto", reports=reports)  # fmt: skip
    made = MachineFactory(context)
    change_access(made, **access)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def pool(reports: Path, *, keeps: bool = False, **access: Any) -> Iterator[MachinePool]:
    """A machine pool on the reference image, with a snapshot from the cache if it was made before."""
    with bench(reports, **access) as made:
        pool = MachinePool(made, SnapshotCache(snapshot_cache.directory()), keeps=keeps)
        try:
            yield pool
        finally:
            pool.close()


def change_access(factory: MachineFactory, **access: Any) -> None:
    """Replaces the access section of the profile, from the next boot on."""
    factory.profile = factory.profile.model_copy(update={"access": AccessSection(**access)})


@contextlib.contextmanager
def machine(reports: Path, **access: Any) -> Iterator[Machine]:
    """A machine on the reference image, its shell open."""
    with bench(reports, **access) as made, made.create(MachineSpec(name="machine")) as machine:
        yield machine
