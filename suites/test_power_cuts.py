"""An upgrade is atomic: the power is cut at every moment at which the disk may lose or tear one of its writes."""

from __future__ import annotations

from lifsea_testbed import PowerCuts, claim


@claim("atomic-upgrade")
def test_every_power_cut_boots_old_or_new(power_cuts: PowerCuts) -> None:
    """Each disk boots the old image or the new one, whole; the new one if the upgrade had reported success."""
    assert power_cuts.broken == []
    power_cuts.require_all()
