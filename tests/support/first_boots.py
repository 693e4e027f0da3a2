"""A sound machine's first boots under difficulties and its power cuts, and the defects to be found in them."""

from __future__ import annotations

from typing import Any

from lifsea_testbed.guest.system import ClockTracking
from lifsea_testbed.scenarios.first_boot import ClockCorrection, FirstBoot
from lifsea_testbed.scenarios.outages import Outage, Outages

SYNCHRONISED = ClockTracking(source="100.100.61.88", stratum=2, offset=3e-5, is_synchronised=True)
SOUND: dict[str, Any] = {
    "name_after_boot": "iZtestZ", "runs_after_boot": ["0"], "failed_after_boot": [], "clock_ahead": -0.01,
    "tracking": SYNCHRONISED, "cuts": 2, "cut_loses": False, "cut_images": ["lifsea.local/pause:1"], "cut_fails": [],
    "cut_errors": [], "cut_damage": [],
}  # fmt: skip
_BOOTS: list[dict[str, Any]] = [
    {"name_after_boot": "localhost"}, {"runs_after_boot": []}, {"failed_after_boot": ["init.service"]},
]  # fmt: skip
DEFECTS: dict[str, list[dict[str, Any]]] = {
    "test_a_late_metadata_service_is_waited_for": [*_BOOTS, {"runs_after_boot": ["0", "0"]}],
    "test_a_hardened_metadata_service_is_asked_with_a_token": _BOOTS,
    "test_all_is_well_after_a_power_cut": [
        {"cuts": 0}, {"cut_fails": ["session.service"]}, {"cut_errors": ["EXT4-fs error"]}, {"cut_damage": ["vda4: 3"]},
    ],
    "test_what_was_synced_outlives_a_power_cut": [{"cut_loses": True}, {"cut_images": []}],
    "test_a_wrong_clock_is_set": [{"clock_ahead": -3600.0}, {"clock_ahead": 0.2}, {"clock_ahead": -0.2}],
    "test_the_time_daemon_knows_how_right_the_clock_is": [
        {"tracking": None},
        {"tracking": ClockTracking(source="", stratum=0, offset=0.0, is_synchronised=False)},
        {"tracking": ClockTracking(source="t", stratum=2, offset=-3600.0, is_synchronised=True)},
    ],
}  # fmt: skip


def offered(traits: dict[str, Any], machine: Any) -> dict[str, Any]:
    """The fixtures' values for a machine with those traits."""
    boot = FirstBoot(machine=machine, host_name=traits["name_after_boot"], user_data_runs=traits["runs_after_boot"],
                     failed_units=traits["failed_after_boot"], statuses=[200])  # fmt: skip
    clock = ClockCorrection(machine=machine, ahead=traits["clock_ahead"], tracking=traits["tracking"])
    cut = Outage(after=2.0, written="written", text=None if traits["cut_loses"] else "written",
                 images=traits["cut_images"], failed_units=traits["cut_fails"], kernel_errors=traits["cut_errors"],
                 damage=traits["cut_damage"])  # fmt: skip
    return {"outages": Outages(machine=machine, cuts=[cut] * traits["cuts"]), "late_metadata": boot,
            "hardened_metadata": boot, "corrected_clock": clock}
