"""Power cuts: at every moment of an upgrade at which the disk may lose or tear a write, and in normal operation."""

from __future__ import annotations

from lifsea_testbed import Outages, PowerCuts, Profile, claim


@claim("atomic-upgrade")
def test_every_power_cut_boots_old_or_new(power_cuts: PowerCuts) -> None:
    """Each disk boots the old image or the new one, whole; the new one if the upgrade had reported success."""
    assert power_cuts.broken == []
    power_cuts.require_all()


@claim("survives-power-cut")
def test_all_is_well_after_a_power_cut(outages: Outages) -> None:
    """Cut off at work, the machine comes up; every pod runs again, no unit failed, no file system is damaged."""
    assert outages.cuts != []
    assert [(cut.after, cut.failed_units) for cut in outages.cuts if cut.failed_units] == []
    assert [(cut.after, cut.kernel_errors) for cut in outages.cuts if cut.kernel_errors] == []
    assert [(cut.after, cut.damage) for cut in outages.cuts if cut.damage] == []


@claim("survives-power-cut")
def test_what_was_synced_outlives_a_power_cut(outages: Outages, profile: Profile) -> None:
    """A file that was synced right before the cut is there as it was written, and so are containerd's images."""
    assert [(cut.after, cut.text) for cut in outages.cuts if cut.text != cut.written] == []
    assert [(cut.after, cut.images) for cut in outages.cuts if profile.cluster.pause not in cut.images] == []
