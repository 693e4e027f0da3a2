"""Upgrade paths: a chain of upgrades and rollbacks, and upgrades that must fail; they need no image but the one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lifsea_testbed.errors import CommandFailed
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.scenarios import basics
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, KEPT_IN_VAR
from lifsea_testbed.upgrade.offer import EDITED, LEFT, REMOVED, Offer, make_offers
from lifsea_testbed.upgrade.repository import Repository, RepositoryFault
from lifsea_testbed.upgrade.tools import NO_EXTRA_TOOLS, MakeUpgradeTool, UpgradeTool, upgrade_tool

_EDITED_TEXT = "edited on the machine"
#: Fills a file system up to its last block, through a private mount where it is mounted read-only. The blocks are
#: allocated and not written, so that 20 GiB cost the host nothing.
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
class ChainStop:
    """The machine after one step of a chain: images wanted, running and next, and the files kept (path → text)."""

    how: str
    wanted: str
    running: str
    boots_next: str
    kept: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class UpgradeChain:
    """A machine that was upgraded to N+1, to N+2, back, forth and back without a reboot, and to N+2; a stop each.

    `merged` holds three files that both images and the machine changed (path → text), `wanted` their right contents.
    """

    machine: Machine
    stops: list[ChainStop]
    merged: dict[str, str | None]
    wanted: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class UpgradeFault:
    """A fault that an upgrade must not survive, and the error message that names it (a regular expression).

    The repository serves faulty content (`repository`), signatures are required and missing (`signed`), or the file
    system of a directory is full (`full`).
    """

    name: str
    error_pattern: str
    repository: RepositoryFault = RepositoryFault.NONE
    signed: bool = False
    full: str = ""


@dataclass(frozen=True, kw_only=True)
class FailedUpgrade:
    """An upgrade under a fault: the tool's error output, or None if it did not fail, and the image that boots next."""

    fault: UpgradeFault
    output: str | None
    boots_next: str

    @property
    def is_clear(self) -> bool:
        """Whether the tool failed and its output names the fault."""
        return self.output is not None and re.search(self.fault.error_pattern, self.output) is not None


@dataclass(frozen=True, kw_only=True)
class FaultInjection:
    """A machine whose upgrade failed once for every fault.

    The images that ran: `before`, `after_reboot` once all had failed, and `in_the_end` after an upgrade without a fault
    to `wanted`.
    """

    machine: Machine
    before: str
    failures: list[FailedUpgrade]
    after_reboot: str
    wanted: str
    in_the_end: str


UPGRADE_FAULTS = (
    UpgradeFault(name="the repository breaks off", repository=RepositoryFault.CUT_OFF,
                 error_pattern=r"(?i)clos|transfer|partial|truncat|connection"),
    UpgradeFault(name="the repository is corrupted", repository=RepositoryFault.CORRUPTED,
                 error_pattern=r"(?i)corrupt|checksum|invalid|inflat"),
    UpgradeFault(name="the repository is not signed", signed=True, error_pattern=r"(?i)gpg|signature|signed"),
    UpgradeFault(name="the root file system is full", full="/var",
                 error_pattern=r"(?i)no space|min-free-space|disk full"),
    UpgradeFault(name="/boot is full", full="/boot", error_pattern=r"(?i)no space|disk full"),
)  # fmt: skip


def run_chain(factory: MachineFactory, machine: Machine, directory: Path,
              tools: Mapping[str, MakeUpgradeTool] = NO_EXTRA_TOOLS) -> UpgradeChain:
    """Upgrades from the image to made-up ones and back, with a reboot after each step.

    The offers are stored in `directory`; `tools` are upgrade tools beside the built-in ones.
    """
    tool, (first, second), _ = _offered(factory, machine, directory, tools, count=2)
    basics.write(machine, (KEPT_IN_ETC, KEPT_IN_VAR))
    stops = [_go(machine, tool, "upgrade", first)]
    machine.guest.files.write(EDITED, _EDITED_TEXT)
    machine.run(f"rm {REMOVED}")
    stops.append(_go(machine, tool, "upgrade of the upgraded", second))
    merged = basics.read(machine, (EDITED, LEFT, REMOVED))
    tool.roll_back()
    stops.append(_stop(machine, tool, "rollback", tool.name_of(first)))
    tool.apply(second)
    tool.roll_back()
    stops.append(_stop(machine, tool, "upgrade that was rolled back before the reboot", tool.name_of(first)))
    stops.append(_go(machine, tool, "upgrade after a rollback", second))
    return UpgradeChain(machine=machine, stops=stops, merged=merged,
                        wanted={EDITED: _EDITED_TEXT, LEFT: f"{second.version}\n", REMOVED: None})  # fmt: skip


def inject_faults(factory: MachineFactory, machine: Machine, directory: Path,
                  tools: Mapping[str, MakeUpgradeTool] = NO_EXTRA_TOOLS) -> FaultInjection:
    """Upgrades once under each fault, reboots, and upgrades without a fault."""
    tool, (offer,), repository = _offered(factory, machine, directory, tools, count=1)
    before = tool.running()
    failures = [_failed(machine, tool, repository, offer, fault) for fault in UPGRADE_FAULTS]
    machine.reboot()
    after = tool.running()
    tool.apply(offer)
    machine.reboot()
    return FaultInjection(machine=machine, before=before, failures=failures, after_reboot=after,
                          wanted=tool.name_of(offer), in_the_end=tool.running())  # fmt: skip


def _offered(factory: MachineFactory, machine: Machine, directory: Path, tools: Mapping[str, MakeUpgradeTool],
             count: int) -> tuple[UpgradeTool, list[Offer], Repository]:
    machine.wait_until_ready()
    repository = Repository(directory)
    offers = make_offers(machine, directory, machine.network.serve_mirror(repository), count)
    return upgrade_tool(machine, factory.profile.upgrades, tools), offers, repository


def _go(machine: Machine, tool: UpgradeTool, how: str, offer: Offer) -> ChainStop:
    tool.apply(offer)
    return _stop(machine, tool, how, tool.name_of(offer))


def _stop(machine: Machine, tool: UpgradeTool, how: str, wanted: str) -> ChainStop:
    machine.reboot()
    return ChainStop(how=how, wanted=wanted, running=tool.running(), boots_next=tool.boots_next(),
                     kept=basics.read(machine, (KEPT_IN_ETC, KEPT_IN_VAR)))  # fmt: skip


def _failed(machine: Machine, tool: UpgradeTool, repository: Repository, offer: Offer,
            fault: UpgradeFault) -> FailedUpgrade:
    output = None
    with _injected(machine, repository, fault):
        try:
            tool.apply(replace(offer, signed=fault.signed))
        except CommandFailed as error:
            output = error.evidence
    return FailedUpgrade(fault=fault, output=output, boots_next=tool.boots_next())


@contextlib.contextmanager
def _injected(machine: Machine, repository: Repository, fault: UpgradeFault) -> Iterator[None]:
    places = {"place": fault.full, "filler": f"{fault.full}/lifsea-testbed-filler"}
    repository.fault = fault.repository
    if fault.full:
        machine.run(_FILL.format(**places), within=_FILLING)
    try:
        yield
    finally:
        repository.fault = RepositoryFault.NONE
        if fault.full:
            machine.run(_EMPTY.format(**places), within=_FILLING)
