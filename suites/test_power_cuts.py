"""An upgrade is atomic: the power is cut wherever the disk may lose or tear a write of it."""

from __future__ import annotations

from lifsea_testbed.plugin.items import claim
from lifsea_testbed.powercut.campaign import PowerCuts


@claim("atomic-upgrade")
def test_every_power_cut_boots_old_or_new(power_cuts: PowerCuts) -> None:
    """Each disk boots the old image or the new one, whole; the new one if the upgrade had said that it was done."""
    assert power_cuts.broken == []
    power_cuts.require_all()
