"""Upgrades one after the other, back and forth again, and in trouble; one image is enough for that."""

from __future__ import annotations

from lifsea_testbed.plugin.items import claim
from lifsea_testbed.scenarios.upgrade_paths import FaultInjection, UpgradeChain
from lifsea_testbed.support.guest_paths import KEPT_IN_ETC, KEPT_IN_VAR


@claim("upgrade-chain")
def test_each_step_boots_what_it_should(travelled: UpgradeChain) -> None:
    """Two upgrades, a rollback, an upgrade that is taken back before the reboot, and an upgrade again."""
    assert [stop.how for stop in travelled.stops if stop.running != stop.wanted] == []
    assert [stop.how for stop in travelled.stops if stop.boots_next != stop.running] == []


@claim("upgrade-chain")
def test_etc_and_var_go_along(travelled: UpgradeChain) -> None:
    """What root wrote there before the first step is there after each."""
    written = {KEPT_IN_ETC: KEPT_IN_ETC, KEPT_IN_VAR: KEPT_IN_VAR}
    assert [stop.how for stop in travelled.stops if stop.kept != written] == []


@claim("etc-merged")
def test_the_machines_changes_win_over_the_images(travelled: UpgradeChain) -> None:
    """What it edited stays edited, what it removed stays away, and what it left alone is the next image's."""
    assert travelled.merged == travelled.wanted


@claim("upgrade-refused-whole")
def test_an_upgrade_in_trouble_fails_and_says_why(troubled: FaultInjection) -> None:
    """With the repository cut off, corrupted or unsigned, and with / or /boot full."""
    assert [(failed.fault.name, failed.output) for failed in troubled.failures if not failed.is_clear] == []


@claim("upgrade-refused-whole")
def test_an_upgrade_in_trouble_changes_nothing(troubled: FaultInjection) -> None:
    """The old image is the one that boots next, and boots."""
    assert [failed.fault.name for failed in troubled.failures if failed.boots_next != troubled.before] == []
    assert troubled.after_reboot == troubled.before


@claim("upgrade-refused-whole")
def test_the_upgrade_after_the_trouble_succeeds(troubled: FaultInjection) -> None:
    """Nothing that a failed one left behind stands in its way."""
    assert troubled.in_the_end == troubled.wanted != troubled.before
