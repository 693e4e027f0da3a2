"""Chains of upgrades and rollbacks, and upgrades with injected faults; they need no second image."""

from __future__ import annotations

from lifsea_testbed import KEPT_IN_ETC, KEPT_IN_VAR, FaultInjection, UpgradeChain, claim


@claim("upgrade-chain")
def test_each_step_boots_what_it_should(travelled: UpgradeChain) -> None:
    """Two upgrades, a rollback, an upgrade that is undone before the reboot, and an upgrade again."""
    assert [stop.how for stop in travelled.stops if stop.running != stop.wanted] == []
    assert [stop.how for stop in travelled.stops if stop.boots_next != stop.running] == []


@claim("upgrade-chain")
def test_etc_and_var_go_along(travelled: UpgradeChain) -> None:
    """Files that root wrote there before the first step are there after each step."""
    written = {KEPT_IN_ETC: KEPT_IN_ETC, KEPT_IN_VAR: KEPT_IN_VAR}
    assert [stop.how for stop in travelled.stops if stop.kept != written] == []


@claim("etc-merged")
def test_the_machines_changes_win_over_the_images(travelled: UpgradeChain) -> None:
    """Files it edited stay edited, files it removed stay removed, and files it left alone are the next image's."""
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
    """Nothing that a failed upgrade left behind prevents it."""
    assert troubled.in_the_end == troubled.wanted != troubled.before
