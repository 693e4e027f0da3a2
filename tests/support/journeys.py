"""A sound machine after upgrade chains, faults and power cuts, and the defects that the suites have to find."""

from __future__ import annotations

from typing import Any, cast

from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.powercut.campaign import PowerCuts
from lifsea_testbed.powercut.crash_states import CrashKind, CrashState
from lifsea_testbed.powercut.operation import CheckDepth
from lifsea_testbed.powercut.report import SweepSummary
from lifsea_testbed.powercut.verdicts import CrashResult, CrashVerdict
from lifsea_testbed.scenarios.upgrade_paths import (
    UPGRADE_FAULTS,
    ChainStop,
    FailedUpgrade,
    FaultInjection,
    UpgradeChain,
)
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, KEPT_IN_VAR

_KEPT = {KEPT_IN_ETC: KEPT_IN_ETC, KEPT_IN_VAR: KEPT_IN_VAR}
_MERGED = {"/etc/edited": "mine", "/etc/left": "2", "/etc/removed": None}
_STATE = CrashState(name="epoch 1", kind=CrashKind.FLUSH, position=1, latest=1)
SOUND: dict[str, Any] = {
    "stop_runs": "2", "stop_boots_next": "2", "stop_keeps": _KEPT, "etc_merged": _MERGED, "failures_print": None,
    "refused_boots_next": "0", "trouble_survived": "0", "upgraded_in_the_end": "1", "cut_outcome": CrashVerdict.OLD,
    "disks_left": 0, "disks_unconfirmed": 0,
}  # fmt: skip
#: An error message that names each fault, in their order.
_OUTPUTS = ("error: While fetching: Server closed the connection",
            "error: Corrupted file object ab12; checksum expected",
            "error: GPG verification enabled, but no signatures found",
            "error: writing content: No space left on device",
            "error: No space left on device")  # fmt: skip
DEFECTS: dict[str, list[dict[str, Any]]] = {
    "test_each_step_boots_what_it_should": [{"stop_runs": "1"}, {"stop_boots_next": "1"}],
    "test_etc_and_var_go_along": [{"stop_keeps": {**_KEPT, KEPT_IN_ETC: None}},
                                  {"stop_keeps": {**_KEPT, KEPT_IN_VAR: None}}],
    "test_the_machines_changes_win_over_the_images": [
        {"etc_merged": {**_MERGED, path: text}} for path, text in
        (("/etc/edited", "2"), ("/etc/left", "1"), ("/etc/removed", "2"))
    ],
    "test_an_upgrade_in_trouble_fails_and_says_why": [{"failures_print": ""}, {"failures_print": "error"}],
    "test_an_upgrade_in_trouble_changes_nothing": [{"refused_boots_next": "1"}, {"trouble_survived": "1"}],
    "test_the_upgrade_after_the_trouble_succeeds": [{"upgraded_in_the_end": "0"}],
    "test_every_power_cut_boots_old_or_new": [{"cut_outcome": CrashVerdict.BROKEN}],
}  # fmt: skip


def offered(traits: dict[str, Any]) -> dict[str, Any]:
    """The fixtures' values for a machine with those traits."""
    machine = cast(Machine, None)
    stop = ChainStop(how="upgrade", wanted="2", running=traits["stop_runs"], boots_next=traits["stop_boots_next"],
                     kept=traits["stop_keeps"])  # fmt: skip
    return {
        "travelled": UpgradeChain(machine=machine, stops=[stop], merged=traits["etc_merged"], wanted=_MERGED),
        "troubled": FaultInjection(machine=machine, before="0", after_reboot=traits["trouble_survived"], wanted="1",
                                   in_the_end=traits["upgraded_in_the_end"], failures=_failures(traits)),
        "power_cuts": PowerCuts(summaries={"upgrade": _summary(traits)}, budget="30m"),
    }  # fmt: skip


def _failures(traits: dict[str, Any]) -> list[FailedUpgrade]:
    """One failed upgrade for each fault; a defect gives all the same output, or none because the tool did not fail."""
    output = traits["failures_print"]
    return [FailedUpgrade(fault=fault, output=sound if output is None else output or None,
                          boots_next=traits["refused_boots_next"])
            for fault, sound in zip(UPGRADE_FAULTS, _OUTPUTS, strict=True)]  # fmt: skip


def _summary(traits: dict[str, Any]) -> SweepSummary:
    result = CrashResult(digest="d", state=_STATE.name, outcome=traits["cut_outcome"], depth=CheckDepth.BOOT)
    return SweepSummary(enumerated=20, distinct=20, booted=1, inferred=0, confirmed=0, contradicted=0,
                        unconfirmed=traits["disks_unconfirmed"], left=traits["disks_left"], broken=0, old=1, new=0,
                        seconds=30.0, states=[(_STATE, result)])  # fmt: skip
