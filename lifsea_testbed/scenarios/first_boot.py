"""First boots under difficulties: a metadata service in trouble, a hardware clock that is wrong."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from lifsea_testbed.ecs.metadata_faults import MetadataFaults
from lifsea_testbed.errors import WaitTimedOut
from lifsea_testbed.guest.system import ClockTracking
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.profiles.profile import Profile

#: A service that comes late, then fails at first, and is slow.
LATE = MetadataFaults(silent=8.0, errors=2, delay=1.0)
#: A service of an instance whose HttpTokens are required.
HARDENED = MetadataFaults(token_required=True)
#: The error of the hardware clock at power-on (seconds); a clock that is only slewed needs days for that.
CLOCK_ERROR = -3600


@dataclass(frozen=True, kw_only=True)
class FirstBoot:
    """A machine after its first boot: host name and user-data's runs, the units that failed, the service's statuses.

    `statuses` are those of the answers that it got from the metadata service, in order; 0 stands for none.
    """

    machine: Machine
    host_name: str
    user_data_runs: list[str]
    failed_units: list[str]
    statuses: list[int]


@dataclass(frozen=True, kw_only=True)
class ClockCorrection:
    """A machine that was powered on with a wrong clock, once the clock was right or time was up.

    `ahead` is how far it is ahead of the host's clock at last (seconds), `tracking` what the time daemon reports.
    """

    machine: Machine
    ahead: float
    tracking: ClockTracking | None


def observe(machine: Machine) -> FirstBoot:
    """Waits until the boot has finished, and reads what the first boot did."""
    machine.wait_until_ready()
    return FirstBoot(machine=machine, host_name=machine.guest.system.host_name(),
                     user_data_runs=machine.guest.system.user_data_runs(), failed_units=machine.guest.units.failed(),
                     statuses=[seen.status for seen in machine.requests])  # fmt: skip


def correct_clock(machine: Machine, profile: Profile) -> ClockCorrection:
    """Waits until the clock is right and the time daemon knows it, or the profile's time for that is over."""
    machine.wait_until_ready()
    clock, allowed = machine.guest.clock, profile.clock.offset
    with contextlib.suppress(WaitTimedOut):
        machine.wait_until(lambda: abs(clock.ahead()) <= allowed and _is_right(clock.tracking(), allowed),
                           "the clock is right", within=profile.clock.corrected_within)  # fmt: skip
    return ClockCorrection(machine=machine, ahead=clock.ahead(), tracking=clock.tracking())


def _is_right(tracking: ClockTracking | None, allowed: float) -> bool:
    return tracking is not None and tracking.is_synchronised and abs(tracking.offset) <= allowed
