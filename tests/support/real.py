"""Machines on the reference image, for the tests that need a real guest."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.factory import Bench
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.pool import Restorer
from lifsea_testbed.machine.preflight import Wish, prepare
from lifsea_testbed.machine.snapshot_cache import TemplateCache
from lifsea_testbed.profiles.profile import Access
from tests.support import ROOT


def built(name: str) -> Path:
    """The image of that recipe, built or from the cache."""
    image = ROOT / f"build/{name}.qcow2"
    subprocess.run([sys.executable, "-m", "images", "build", name, "-o", str(image)], cwd=ROOT, check=True)
    return image


def control_plane() -> Path:
    """The directory with the programs of the control plane, built or from the cache."""
    programs = ROOT / "build/control-plane"
    subprocess.run([sys.executable, "-m", "images", "control-plane", "-o", str(programs)], cwd=ROOT, check=True)
    return programs


@contextlib.contextmanager
def bench(reports: Path, **access: Any) -> Iterator[Bench]:
    """A bench for the reference image, with these changes of its access."""
    wish = Wish(image=str(built("reference")), next_image=None, profile="reference", instance_type="ecs.g7.large",
                accelerator="auto", reports=reports)  # fmt: skip
    made = prepare(wish).bench()
    change_access(made, **access)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def restorer(reports: Path, *, keeps: bool = False, **access: Any) -> Iterator[Restorer]:
    """Restores machines on the reference image, from a template in the cache if there is one."""
    with bench(reports, **access) as made:
        lender = Restorer(made, TemplateCache(snapshot_cache.directory()), keeps=keeps)
        try:
            yield lender
        finally:
            lender.close()


def change_access(bench: Bench, **access: Any) -> None:
    """Changes the access of the bench's machines from their next boot on."""
    bench.profile = bench.profile.model_copy(update={"access": Access(**access)})


@contextlib.contextmanager
def machine(reports: Path, **access: Any) -> Iterator[Machine]:
    """A machine on the reference image, its shell open."""
    with bench(reports, **access) as made, made.machine("machine") as machine:
        yield machine
