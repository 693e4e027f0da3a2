"""What came up after a cut: the old image or the new one, whole, and able to be upgraded; or what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lifsea_testbed.errors import GuestFailure
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut.operation import Depth, FirstBoot
from lifsea_testbed.powercut.recording import Facts
from lifsea_testbed.powercut.results import Outcome
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, MACHINE_ID
from lifsea_testbed.upgrade.tools import OstreeUpgrade

_MACHINE_ID = re.compile(r"[0-9a-f]{32}\n")
#: Behind the root partition no more than this is left (bytes), and its file system spans so much of it: ext4 keeps
#: about 2 % for its own tables.
_UNUSED, _FILLED = 2 << 20, 0.95


def look(machine: Machine, facts: Facts, depth: Depth) -> tuple[Outcome, str]:
    """Tells which image runs on a machine whose shell is open, and what is wrong with it.

    At the depth of a check ostree's repository is read whole, and /usr compared with the commit; at that of a next
    upgrade the other one of the two images is deployed before, pulled again if it was on offer.

    Raises:
        GuestFailure: the machine cannot answer.
    """
    running = machine.guest.deployments.booted().commit
    if running not in (facts.old, facts.new):
        return Outcome.BROKEN, f"neither the old nor the new image runs, but {running}"
    is_new = running == facts.new
    if found := [*_settled(machine, facts, is_new=is_new), *_deeper(machine, facts, running, depth)]:
        return Outcome.BROKEN, "; ".join(found)
    return (Outcome.NEW if is_new else Outcome.OLD), ""


def _settled(machine: Machine, facts: Facts, *, is_new: bool) -> Iterator[str]:
    """What is the machine's own: made by its first boot, and kept by all else."""
    if facts.subject == FirstBoot.name:
        yield from _unprovisioned(machine)
        return
    if machine.guest.files.read(KEPT_IN_ETC) != KEPT_IN_ETC:
        yield f"{KEPT_IN_ETC} is not as it was before the upgrade"
    if is_new and (missing := machine.guest.deployments.missing_defaults()):
        yield f"/etc lacks new defaults: {', '.join(missing)}"


def _unprovisioned(machine: Machine) -> Iterator[str]:
    """What a first boot has to do, and did not, however often it had to begin."""
    machine.wait_until_ready()
    if failed := machine.guest.units.failed():
        yield f"failed: {', '.join(failed)}"
    disk = machine.guest.disks.root()
    if disk.unused > _UNUSED or disk.filled < _FILLED:
        yield f"the root file system does not fill the disk: {disk}"
    if not _MACHINE_ID.fullmatch(machine.guest.files.read(MACHINE_ID) or ""):
        yield f"{MACHINE_ID} holds no machine-id"
    if machine.guest.system.host_name() != machine.instance.host_name:
        yield f"the host name is {machine.guest.system.host_name()}"
    if not machine.guest.system.user_data_runs():
        yield "user-data did not run"


def _deeper(machine: Machine, facts: Facts, running: str, depth: Depth) -> Iterator[str]:
    if depth is Depth.BOOT:
        return
    if depth is Depth.NEXT and facts.old != facts.new:
        yield from _not_upgraded(machine, facts, facts.new if running == facts.old else facts.old)
    if damage := machine.guest.deployments.repository_damage():
        yield f"ostree fsck: {damage[-1]}"
    if changed := machine.guest.deployments.changed_files():
        yield f"/usr is not the commit's: {', '.join(changed[:5])}"


def _not_upgraded(machine: Machine, facts: Facts, commit: str) -> Iterator[str]:
    try:
        if facts.offer and facts.offer.commit == commit:
            OstreeUpgrade(machine).apply(facts.offer)
        else:
            machine.guest.deployments.deploy(machine.guest.deployments.booted().os, commit)
    except GuestFailure as error:
        yield f"the next upgrade fails: {error.happened}: {error.evidence.strip()[-300:]}"
        return
    first = machine.guest.deployments.all()[0].commit
    if first != commit:
        yield f"the next upgrade says that it went well, and {first} boots next"
