"""Journeys: a machine goes from image to image and back, on good roads and bad ones; one image is enough for that."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lifsea_testbed.errors import CommandFailed
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.scenarios import basics
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, KEPT_IN_VAR
from lifsea_testbed.upgrade.offer import EDITED, LEFT, REMOVED, Offer, make_up
from lifsea_testbed.upgrade.repository import Fault, Repository
from lifsea_testbed.upgrade.tools import Upgrade, way

_MINE = "edited on the machine"
#: Fills a file system up to its last block, by a mount of its own where it is read-only for all others. The blocks are
#: taken and not written, so that 20 GiB cost the host nothing.
_FILL = """
exec unshare --mount --propagation private sh -c '
    mount -o remount,rw {place} 2>/dev/null
    for size in 1073741824 16777216 262144 4096 1024; do
        while fallocate --offset "$(stat -c %s {filler} 2>/dev/null || echo 0)" --length $size {filler}; do :; done
    done 2>/dev/null
    sync -f {filler}; [ -s {filler} ]'
"""
_EMPTY = """
exec unshare --mount --propagation private sh -c '
    mount -o remount,rw {place} 2>/dev/null
    rm -f {filler}
    sync -f {place}'
"""
#: How long a file system may take to fill up on real hardware (seconds).
_FILLING = 60.0


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where a machine got: how, what was to run, what runs, what boots next, what it kept (path → text)."""

    how: str
    wanted: str
    running: str
    boots_next: str
    kept: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Travelled:
    """A machine that went N, N+1, N+2, back, nowhere, and forth again; its stops in that order.

    `merged` is what became of three files that both images and the machine had a hand in.
    """

    machine: Machine
    stops: list[Stop]
    merged: dict[str, str | None]
    wanted: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What stands in an upgrade's way, and by which words of the tool a person knows it (regular expression)."""

    name: str
    sign: str
    fault: Fault = Fault.NONE
    signed: bool = False
    full: str = ""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What came of an upgrade in trouble: what the tool said if it failed, and what boots next."""

    trouble: Trouble
    said: str | None
    boots_next: str

    @property
    def is_clear(self) -> bool:
        """Whether the tool failed and named the trouble."""
        return self.said is not None and re.search(self.trouble.sign, self.said) is not None


@dataclass(frozen=True, kw_only=True)
class Troubled:
    """A machine that met every trouble: what ran before, after all of them, and after an upgrade without any."""

    machine: Machine
    before: str
    refusals: list[Refusal]
    after_reboot: str
    wanted: str
    in_the_end: str


TROUBLES = (
    Trouble(name="the repository breaks off", fault=Fault.CUT_OFF,
            sign=r"(?i)clos|transfer|partial|truncat|connection"),
    Trouble(name="the repository is corrupted", fault=Fault.CORRUPTED, sign=r"(?i)corrupt|checksum|invalid|inflat"),
    Trouble(name="the repository is not signed", signed=True, sign=r"(?i)gpg|signature|signed"),
    Trouble(name="the root file system is full", full="/var", sign=r"(?i)no space|min-free-space|disk full"),
    Trouble(name="/boot is full", full="/boot", sign=r"(?i)no space|disk full"),
)


def travel(factory: MachineFactory, machine: Machine, directory: Path) -> Travelled:
    """Goes from the image to made-up ones and back, with a reboot after each step, and looks."""
    upgrade, (first, second), _ = _offered(factory, machine, directory, count=2)
    basics.write(machine, (KEPT_IN_ETC, KEPT_IN_VAR))
    stops = [_go(machine, upgrade, "upgrade", first)]
    machine.guest.files.write(EDITED, _MINE)
    machine.run(f"rm {REMOVED}")
    stops.append(_go(machine, upgrade, "upgrade of the upgraded", second))
    merged = basics.read(machine, (EDITED, LEFT, REMOVED))
    upgrade.roll_back()
    stops.append(_stop(machine, upgrade, "rollback", upgrade.names(first)))
    upgrade.apply(second)
    upgrade.roll_back()
    stops.append(_stop(machine, upgrade, "upgrade that was taken back before the reboot", upgrade.names(first)))
    stops.append(_go(machine, upgrade, "upgrade after a rollback", second))
    return Travelled(machine=machine, stops=stops, merged=merged,
                     wanted={EDITED: _MINE, LEFT: f"{second.version}\n", REMOVED: None})  # fmt: skip


def meet_trouble(factory: MachineFactory, machine: Machine, directory: Path) -> Troubled:
    """Tries to upgrade in each trouble, reboots, and upgrades without any."""
    upgrade, (offer,), repository = _offered(factory, machine, directory, count=1)
    before = upgrade.running()
    refusals = [_refused(machine, upgrade, repository, offer, trouble) for trouble in TROUBLES]
    machine.reboot()
    after = upgrade.running()
    upgrade.apply(offer)
    machine.reboot()
    return Troubled(machine=machine, before=before, refusals=refusals, after_reboot=after, wanted=upgrade.names(offer),
                    in_the_end=upgrade.running())  # fmt: skip


def _offered(factory: MachineFactory, machine: Machine, directory: Path,
             count: int) -> tuple[Upgrade, list[Offer], Repository]:
    machine.wait_until_ready()
    repository = Repository(directory)
    offers = make_up(machine, directory, machine.network.serve_mirror(repository), count)
    return way(machine, factory.profile.upgrades), offers, repository


def _go(machine: Machine, upgrade: Upgrade, how: str, offer: Offer) -> Stop:
    upgrade.apply(offer)
    return _stop(machine, upgrade, how, upgrade.names(offer))


def _stop(machine: Machine, upgrade: Upgrade, how: str, wanted: str) -> Stop:
    machine.reboot()
    return Stop(how=how, wanted=wanted, running=upgrade.running(), boots_next=upgrade.boots_next(),
                kept=basics.read(machine, (KEPT_IN_ETC, KEPT_IN_VAR)))  # fmt: skip


def _refused(machine: Machine, upgrade: Upgrade, repository: Repository, offer: Offer, trouble: Trouble) -> Refusal:
    wished, said = replace(offer, signed=trouble.signed), None
    with _in_trouble(machine, repository, trouble):
        try:
            upgrade.apply(wished)
        except CommandFailed as error:
            said = error.evidence
    return Refusal(trouble=trouble, said=said, boots_next=upgrade.boots_next())


@contextlib.contextmanager
def _in_trouble(machine: Machine, repository: Repository, trouble: Trouble) -> Iterator[None]:
    places = {"place": trouble.full, "filler": f"{trouble.full}/lifsea-testbed-filler"}
    repository.fault = trouble.fault
    if trouble.full:
        machine.run(_FILL.format(**places), within=_FILLING)
    try:
        yield
    finally:
        repository.fault = Fault.NONE
        if trouble.full:
            machine.run(_EMPTY.format(**places), within=_FILLING)
